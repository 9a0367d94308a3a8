// What is shown, as the address says it: a link or a reload shows the same again.

export const VIEWS = ["map", "duplicates", "clusters", "outliers"]; // beside the pictures
export const USUAL_K = 24;
export const BANDS = ["same photo", "close", "similar"]; // the weakest cuts nothing off

export function read(search) {
  const given = new URLSearchParams(search);
  const number = (name) => (/^\d{1,15}$/.test(given.get(name) ?? "") ? Number(given.get(name)) : null);
  const box = given.get("box") ?? "";
  return {
    image: number("image"),
    box: /^[01](\.\d{1,6})?(,[01](\.\d{1,6})?){3}$/.test(box) ? box : null, // a part of the picture
    upload: number("image") === null ? given.get("upload") : null,
    text: number("image") === null && !given.get("upload") ? given.get("text") || null : null,
    k: number("k") || USUAL_K,
    labels: [...new Set(given.getAll("label"))],
    paths: given.getAll("path"),
    within: given.get("within"),
    minBand: BANDS.includes(given.get("min_band")) ? given.get("min_band") : null,
    allCopies: given.get("all_copies") === "true",
    view: VIEWS.includes(given.get("view")) ? given.get("view") : "pictures",
    seed: number("seed"),
  };
}

export const hasQuery = (state) => state.image !== null || Boolean(state.upload || state.text);

export function filters(state) {
  const query = new URLSearchParams();
  for (const label of state.labels) query.append("label", label);
  for (const path of state.paths) query.append("path", path);
  if (state.within !== null) query.set("within", state.within);
  return query;
}

// How results are shown: which bands, and whether copies of one photo are one result.
export function shownAs(state) {
  const query = new URLSearchParams({ all_copies: state.allCopies });
  if (state.minBand) query.set("min_band", state.minBand);
  return query;
}

export function asked(state) {
  const query = new URLSearchParams();
  if (state.image !== null) query.set("image", state.image);
  else if (state.upload) query.set("upload", state.upload);
  else if (state.text) query.set("text", state.text);
  if (state.box && (state.image !== null || state.upload)) query.set("box", state.box);
  query.set("k", state.k);
  for (const [name, value] of filters(state)) query.append(name, value);
  for (const [name, value] of shownAs(state)) query.append(name, value);
  return query;
}

export function href(state) {
  const query = asked(state);
  if (state.k === USUAL_K) query.delete("k");
  if (!state.allCopies) query.delete("all_copies");
  if (VIEWS.includes(state.view)) query.set("view", state.view);
  if (state.seed !== null && !hasQuery(state)) query.set("seed", state.seed);
  const text = query.toString();
  return text ? `?${text}` : "./";
}
