// Points drawn by WebGL2, all in one call.

const VERTEX = `#version 300 es
in vec2 place;
in float kind;
uniform vec2 centre, scale;
uniform float size;
uniform vec4 colours[16];
uniform float sizes[16];
out vec4 colour;
out float width;
void main() {
  int k = int(kind);
  gl_Position = vec4((place - centre) * scale, 0.0, 1.0);
  width = max(2.0, size * sizes[k]);
  gl_PointSize = width;
  colour = colours[k];
}`;

const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 colour;
in float width;
out vec4 pixel;
void main() {
  float away = length(gl_PointCoord - 0.5) * width;
  float cover = clamp(width * 0.5 - away, 0.0, 1.0);
  pixel = vec4(colour.rgb, 1.0) * colour.a * cover;
}`;

export const KINDS = 16;

// null where there is no WebGL2.
export function plot(canvas) {
  const gl = canvas.getContext("webgl2", { antialias: false });
  if (!gl) return null;
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) return null;
  gl.useProgram(program);
  gl.enable(gl.BLEND);
  gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  const at = (name) => [name, gl.getUniformLocation(program, name)];
  const uniforms = Object.fromEntries(["centre", "scale", "size", "colours", "sizes"].map(at));
  const buffers = { place: gl.createBuffer(), kind: gl.createBuffer() };
  let number = 0;

  function attribute(name, data) {
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(gl.getAttribLocation(program, name));
  }

  // Every `step`-th value of an attribute, of so many bytes.
  function read(name, width, type, bytes, step) {
    gl.bindBuffer(gl.ARRAY_BUFFER, buffers[name]);
    gl.vertexAttribPointer(gl.getAttribLocation(program, name), width, type, false, bytes * step, 0);
  }

  // Where points are, and of what kind (0 to 15); those of a higher kind are drawn over others.
  function put(xs, ys, kinds) {
    number = xs.length;
    const firsts = new Uint32Array(KINDS + 1);
    for (const kind of kinds) firsts[kind + 1] += 1;
    for (let kind = 0; kind < KINDS; kind++) firsts[kind + 1] += firsts[kind];
    const places = new Float32Array(2 * number);
    const sorted = new Uint8Array(number);
    for (let i = 0; i < number; i++) {
      const to = firsts[kinds[i]]++;
      places[2 * to] = xs[i];
      places[2 * to + 1] = ys[i];
      sorted[to] = kinds[i];
    }
    attribute("place", places);
    attribute("kind", sorted);
  }

  // `colours` are 16 times r, g, b, a from 0 to 1; `sizes` multiply `size`, in device pixels. Of
  // the points every `step`-th is drawn: fewer, while the map moves on a slow machine.
  function draw({ x, y, perUnit }, colours, sizes, size, step = 1) {
    gl.viewport(0, 0, canvas.width, canvas.height);
    clear();
    gl.uniform2f(uniforms.centre, x, y);
    gl.uniform2f(uniforms.scale, (2 * perUnit) / canvas.width, (2 * perUnit) / canvas.height);
    gl.uniform1f(uniforms.size, size);
    gl.uniform4fv(uniforms.colours, colours);
    gl.uniform1fv(uniforms.sizes, sizes);
    read("place", 2, gl.FLOAT, 8, step);
    read("kind", 1, gl.UNSIGNED_BYTE, 1, step);
    gl.drawArrays(gl.POINTS, 0, Math.ceil(number / step));
  }

  function clear() {
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
  }

  return { put, draw };
}
