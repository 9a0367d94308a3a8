/* Hide instruction sets from a program and from all that it starts, at full speed.
 *
 *     cc -shared -fPIC -o cpuid.so tests/helpers/cpuid.c -ldl
 *     WITHOUT=avx512,vnni,amx LD_PRELOAD=$PWD/cpuid.so python ...
 *
 * Linux lets the instruction cpuid fault, where the processor can; here such faults are answered.
 * A program has to ask before it uses a set of instructions, so that it takes the road of an older
 * processor. What the dynamic loader chose before (copies of memory) stays as it was.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { SET_CPUID = 0x1012 }; /* of arch_prctl */
enum { EAX, EBX, ECX, EDX };
#define BIT(n) (1u << (n))

static const struct {
  const char *set;
  uint32_t leaf, part, reg, bits;
} hidden[] = {
    {"avx2", 1, 0, ECX, BIT(12)}, /* FMA, which came with it */
    {"avx2", 7, 0, EBX, BIT(5)},
    {"avx512", 7, 0, EBX, BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) | BIT(31)},
    {"avx512", 7, 0, ECX, BIT(1) | BIT(6) | BIT(11) | BIT(12) | BIT(14)},
    {"avx512", 7, 0, EDX, BIT(2) | BIT(3) | BIT(8) | BIT(23)},
    {"avx512", 7, 1, EAX, BIT(5)},
    {"avx512", 7, 1, EDX, BIT(19)}, /* AVX10 */
    {"bf16", 7, 1, EAX, BIT(5)},
    {"vnni", 7, 0, ECX, BIT(11)},
    {"vnni", 7, 1, EAX, BIT(4)},
    {"vnni", 7, 1, EDX, BIT(4) | BIT(10)},
    {"amx", 7, 0, EDX, BIT(22) | BIT(24) | BIT(25)},
    {"amx", 7, 1, EAX, BIT(21)},
};

static const char *without = "";
static struct sigaction theirs; /* what the program itself does at SIGSEGV */
static int (*set_action)(int, const struct sigaction *, struct sigaction *);

static long let_fault(int faults) { return syscall(SYS_arch_prctl, SET_CPUID, !faults); }

static void answer(greg_t *at) {
  uint32_t leaf = at[REG_RAX], part = at[REG_RCX], is[4];
  let_fault(0);
  __cpuid_count(leaf, part, is[EAX], is[EBX], is[ECX], is[EDX]);
  let_fault(1);
  for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
    if (hidden[i].leaf == leaf && (leaf == 1 || hidden[i].part == part) && strstr(without, hidden[i].set))
      is[hidden[i].reg] &= ~hidden[i].bits;
  at[REG_RAX] = is[EAX], at[REG_RBX] = is[EBX], at[REG_RCX] = is[ECX], at[REG_RDX] = is[EDX];
  at[REG_RIP] += 2;
}

static void on_fault(int number, siginfo_t *info, void *context) {
  greg_t *at = ((ucontext_t *)context)->uc_mcontext.gregs;
  if (info->si_code == SI_KERNEL && !memcmp((void *)at[REG_RIP], "\x0f\xa2", 2))
    answer(at);
  else if (theirs.sa_flags & SA_SIGINFO)
    theirs.sa_sigaction(number, info, context);
  else if (theirs.sa_handler != SIG_DFL && theirs.sa_handler != SIG_IGN)
    theirs.sa_handler(number);
  else { /* it faults again, and that ends the program; a signal that was sent is sent again */
    set_action(number, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
    if (info->si_code <= 0) raise(number);
  }
}

int sigaction(int number, const struct sigaction *wanted, struct sigaction *was) {
  if (!set_action) set_action = (__typeof__(set_action))dlsym(RTLD_NEXT, "sigaction");
  if (number != SIGSEGV) return set_action(number, wanted, was);
  struct sigaction before = theirs;
  if (wanted) theirs = *wanted;
  if (was) *was = before;
  return 0;
}

__attribute__((constructor)) static void begin(void) {
  if (getenv("WITHOUT")) without = strdup(getenv("WITHOUT"));
  sigaction(SIGSEGV, NULL, NULL); /* finds the real one */
  /* Not on an alternate stack: Python's is too small for the registers of AMX, which end up there. */
  struct sigaction ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
  set_action(SIGSEGV, &ours, NULL);
  if (let_fault(1)) {
    dprintf(2, "this processor, or this system, lets nobody hide what it can\n");
    _exit(77);
  }
}
