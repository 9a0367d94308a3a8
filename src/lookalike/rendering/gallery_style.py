"""How a gallery looks: from a telephone to a wide screen, light and dark, without JavaScript."""

from lookalike.rendering.html import PAGE_STYLE

# Groups stand side by side where there is room, so that pairs do not each take a line. Cards are
# as wide as two of them need on a telephone; a heading does not make its group wider.
_GROUPS = """
body { max-width: 120rem; }
main { container-type: inline-size; }
a { color: inherit; text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
.groups { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.group { --gap: .75rem; --pad: clamp(.75rem, 2cqi, 1.25rem); box-sizing: border-box;
  --card: min(11.5rem, calc((100cqi - 2 * var(--pad) - var(--gap) - 2px) / 2));
  max-width: 100%; padding: var(--pad); border: 1px solid rgb(128 128 128 / .3);
  border-radius: 10px; }
.group:target { border-color: rgb(22 163 74); }
.head { width: 0; min-width: 100%; margin-bottom: .75rem; }
h2, h3 { margin: 0; font-size: 1.0625rem; overflow-wrap: anywhere; }
.head p, .part > p, .more { margin: .125rem 0 0; opacity: .7; overflow-wrap: anywhere; }
.more { margin-top: .75rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem var(--gap); margin: 0; padding: 0;
  list-style: none; }
.cards li { width: var(--card); }
figure { margin: 0; }
.well { display: block; box-sizing: border-box; width: 100%; height: auto; aspect-ratio: 4 / 3;
  object-fit: contain; border-radius: 4px; background: rgb(128 128 128 / .14); }
div.well { display: grid; place-items: center; font-size: .875rem; opacity: .8; }
.keep .well { outline: 2px solid rgb(22 163 74); outline-offset: 1px; }
figcaption { padding-top: .5rem; font-size: .9375rem; overflow-wrap: anywhere; }
.line { display: flex; flex-wrap: wrap; gap: 0 .5rem; align-items: center; min-height: 1.5em;
  font-variant-numeric: tabular-nums; }
strong, small { display: block; }
small { font-size: .8125rem; opacity: .7; }
mark { padding: 0 .375rem; border-radius: 4px; font-size: .8125rem; color: inherit;
  background: rgb(128 128 128 / .2); }
mark.keep, mark.same { background: rgb(22 163 74 / .22); }
mark.drop { background: rgb(220 38 38 / .18); }
@media print { .group { break-inside: avoid; } nav { display: none; } }
"""

# Parts of a page, with links to them that stay in sight. Of `lines` the first picture is larger
# than those after it: eight stand beside it, or, where there is less room, beside and below it.
_PARTS = """
nav { position: sticky; top: 0; z-index: 1; margin: -1rem 0 1.5rem; background: var(--paper);
  border-bottom: 1px solid rgb(128 128 128 / .3); overflow-x: auto; }
nav ul { display: flex; gap: clamp(.75rem, 2.5vw, 1.5rem); margin: 0; padding: 0;
  list-style: none; }
nav a { display: block; padding: .75rem 0; font-size: clamp(.875rem, .8rem + .4vw, 1rem);
  white-space: nowrap; }
.part { margin-bottom: 3.5rem; scroll-margin-top: 4rem; }
.part h2 { font-size: 1.25rem; }
.part > p { max-width: 46rem; margin-bottom: 1.25rem; }
.part .group { scroll-margin-top: 4rem; }
.part h3 { font-size: 1rem; }
.part .head p { font-size: .875rem; }
.boxes .groups { display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); }
.boxes .group { --card: calc((100% - var(--gap)) / 2); }
.part figcaption { font-size: .875rem; }
.heap .group, .lines .group { width: 100%; padding: 0; border: 0; border-radius: 0; }
.heap .cards { display: grid;
  grid-template-columns: repeat(auto-fill, minmax(clamp(6rem, 12cqi, 10.5rem), 1fr)); }
.heap .cards li, .lines .cards li { width: auto; min-width: 0; }
.lines .groups { gap: 0; }
.lines .group { padding: 1rem 0; border-top: 1px solid rgb(128 128 128 / .3); }
.lines .head { display: flex; flex-wrap: wrap; gap: 0 .75rem; align-items: baseline; }
.lines .cards { display: grid; gap: .75rem; grid-template-columns: repeat(4, minmax(0, 1fr)); }
.lines .cards li:first-child { grid-area: 1 / 1 / 3 / 3; }
.lines small { display: none; }
.lines strong { font-weight: normal; font-size: .8125rem; max-height: 2.8em; overflow: hidden; }
@container (min-width: 36rem) {
  .lines .cards { grid-template-columns: repeat(6, minmax(0, 1fr)); }
}
@container (min-width: 60rem) {
  .lines .cards { grid-template-columns: minmax(0, 1.5fr) repeat(8, minmax(0, 1fr)); }
  .lines .cards li:first-child { grid-area: auto; }
}
"""

STYLE = PAGE_STYLE + _GROUPS + _PARTS
