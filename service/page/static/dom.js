// Elements made from text, never from HTML: what a service or a file is called cannot become markup.

export const $ = (id) => document.getElementById(id);

// h("li", {class: "name", onclick: f}, "text", child, null)
export function h(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "g"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

export const percent = (share) => {
  const value = 100 * share;
  if (value === 0 || value === 100) return `${value}\u00a0%`;
  if (value < 0.1) return "<\u00a00.1\u00a0%";
  if (value > 99.9) return ">\u00a099.9\u00a0%";
  return `${value.toFixed(1)}\u00a0%`;
};

export const milliseconds = (value) => `${value < 1 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : value.toFixed(0)}\u00a0ms`;

export const count = (value) => value.toLocaleString("en-US");

export const bytes = (value) => (value < 1 << 20 ? `${Math.ceil(value / 1024)} KiB` : `${(value / (1 << 20)).toFixed(1)} MiB`);
