// A file as people read it: 640 × 480, 1.2 MB, 3 March 2024.

const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium" });

export function bytes(size) {
  if (size < 1000) return `${size} bytes`;
  const [value, unit] = size < 1e6 ? [size / 1e3, "kB"] : size < 1e9 ? [size / 1e6, "MB"] : [size / 1e9, "GB"];
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}

export function factsOf({ width, height, size, modified }) {
  const parts = [
    width && height && `${width} × ${height}`,
    size != null && bytes(size),
    modified && day.format(new Date(modified)),
  ];
  return parts.filter(Boolean);
}

export const fileOf = (image) => factsOf(image).join(" · ");
