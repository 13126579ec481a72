// What both kinds of view share: elements, tokens, colours, packed weights, and the page that holds them.

const SIGNS = { " ": "·", "\u00a0": "␣", "\u3000": "␣", "\n": "↵", "\r": "␍", "\t": "⇥" };
// Format characters are seen only by what they do to their neighbours; the joiners that build emoji stay.
const UNSEEN = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]|(?![\u200c\u200d])\p{Cf}/u;
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const STREAMS = { "": "one", past: "past (left to right)", future: "future (right to left)" };

function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name === "data") Object.assign(element.dataset, value);
    else if (name.startsWith("aria") || name === "role")
      element.setAttribute(name.replace(/(?=[A-Z])/, "-").toLowerCase(), value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

// The characters of a token as [text, whether it stands for something that has no shape of its own].
function spelled(token) {
  if (token === "") return [["empty", true]];
  const parts = [...token].map((character) => {
    if (character in SIGNS) return [SIGNS[character], true];
    if (!UNSEEN.test(character)) return [character, false];
    return [`U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`, true];
  });
  return parts.some(([text]) => text.replace(/[\u200c\u200d\ufe0e\ufe0f]/g, "")) ? parts : [["joiner", true]];
}

function tokenElement(view, place) {
  const element = make("bdi", {
    className: "token",
    title: spelled(view.tokens[place])
      .map(([text]) => text)
      .join(""),
  });
  let plain = "";
  for (const [text, isSign] of spelled(view.tokens[place])) {
    if (!isSign) {
      plain += text;
      continue;
    }
    element.append(plain, make("span", { className: "sign" }, text));
    plain = "";
  }
  element.append(plain);
  if (view.special.includes(place)) element.classList.add("special");
  return element;
}

// "·cat (5)": the place tells equal tokens apart.
function named(view, place) {
  return [tokenElement(view, place), ` (${place})`];
}

function select(name, options, chosen) {
  const list = make(
    "select",
    { name },
    ...options.map((text, number) => make("option", { value: String(number) }, text)),
  );
  list.addEventListener("change", () => chosen(Number(list.value)));
  return list;
}

function about(view, alone) {
  return make(
    "div",
    { className: "about" },
    alone ? "" : make("h2", { dir: "auto" }, view.title),
    make("p", { className: "soft" }, `${view.model} · ${view.tokens.length} tokens`),
    view.text === view.title && !alone
      ? ""
      : make("p", { className: "text", dir: "auto", tabIndex: 0 }, view.text),
  );
}

// One hue from the ground of the page to its far end, so that light and dark alone carry the number, for the
// colour-blind too and in print.
const RAMPS = {
  light: ["#ffffff", "#d3e4f3", "#98c3e2", "#4794c8", "#135ea6", "#072c63"],
  dark: ["#171b21", "#1c3a5e", "#296099", "#4d92cf", "#98c7ef", "#f4f9ff"],
};
const darkScheme = matchMedia("(prefers-color-scheme: dark)");

function ramp() {
  const stops = RAMPS[darkScheme.matches ? "dark" : "light"];
  const colours = stops.map((stop) => [1, 3, 5].map((start) => parseInt(stop.slice(start, start + 2), 16)));
  return Array.from({ length: 256 }, (_, step) => {
    const at = (step / 255) * (colours.length - 1);
    const low = Math.min(Math.floor(at), colours.length - 2);
    return colours[low].map((value, channel) =>
      Math.round(value + (colours[low + 1][channel] - value) * (at - low)),
    );
  });
}

function paint(canvas, side, values, start, full) {
  canvas.width = canvas.height = side;
  const colours = Uint32Array.from(
    ramp(),
    ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0,
  );
  const image = new ImageData(side, side);
  const pixels = new Uint32Array(image.data.buffer);
  for (let cell = 0; cell < side * side; cell++) {
    pixels[cell] = colours[Math.min(255, Math.round((values[start + cell] / full) * 255))];
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function legend(low, high, name, stops = RAMPS[darkScheme.matches ? "dark" : "light"]) {
  const bar = make("i");
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  return make("span", { className: "legend" }, `${name} ${low}`, bar, high);
}

// Weights of one layer: low bytes, then high bytes, zlib, base64.
async function unpacked(packed, count) {
  const binary = atob(packed);
  const bytes = new Uint8Array(binary.length);
  for (let place = 0; place < binary.length; place++) bytes[place] = binary.charCodeAt(place);
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  const halves = new Uint8Array(await new Response(plain).arrayBuffer());
  if (halves.length !== 2 * count) throw new Error("the weights in this page are not whole");
  const weights = new Uint16Array(count);
  for (let place = 0; place < count; place++) weights[place] = halves[place] | (halves[count + place] << 8);
  return weights;
}

async function unpackAll(view) {
  const side = view.tokens.length;
  for (const stream of view.streams ?? []) {
    stream.weights = await Promise.all(
      stream.weights.map((packed) => unpacked(packed, stream.heads * side * side)),
    );
  }
}

// The views, the scale of their colours, and whether a choice in one is one in the other.
class Page {
  constructor(content) {
    this.precision = content.precision;
    this.scale = document.getElementById("scale");
    this.link = document.getElementById("link");
    this.tip = make("div", { className: "tip", hidden: true });
    document.body.append(this.tip);
    this.views = content.views.map((view) =>
      view.streams
        ? new AttentionView(view, this, content.views.length === 1)
        : new GatesView(view, this, content.views.length === 1),
    );
    this.active = this.views[0];
    const kinds = new Set(this.views.map((view) => view.constructor));
    for (const [kind, name] of [
      [AttentionView, ".for-attention"],
      [GatesView, ".for-gates"],
    ]) {
      for (const element of document.querySelectorAll(name)) element.hidden = !kinds.has(kind);
    }
    document.querySelector(".for-two").hidden = this.views.length < 2 || kinds.size > 1;
    this.scale.addEventListener("change", () => this.redraw());
    this.link.addEventListener(
      "change",
      () => this.link.checked && this.pass(this.active, this.active.choice),
    );
    darkScheme.addEventListener("change", () => this.redraw());
    document.addEventListener("keydown", (event) => this.key(event));
  }

  redraw() {
    for (const view of this.views) view.redraw();
  }

  // Streams, layers and heads go over by number; a place in the text only between equal texts.
  pass(from, changes) {
    if (!this.link.checked) return;
    for (const other of this.views) {
      if (other === from || other.constructor !== from.constructor) continue;
      const same = JSON.stringify(other.view.tokens) === JSON.stringify(from.view.tokens);
      const { kept, hover, ...numbers } = changes;
      other.choose(same ? changes : numbers, false);
    }
  }

  key(event) {
    if (event.key === "Escape") this.active.choose({ kept: null, hover: null });
    const step = ARROWS[event.key];
    if (!step || !event.shiftKey || event.target.closest("select")) return;
    event.preventDefault();
    this.active.step(...step);
  }
}

async function start() {
  const main = document.getElementById("views");
  try {
    const content = JSON.parse(document.getElementById("data").textContent);
    if (!("DecompressionStream" in window))
      throw new Error("this browser is too old for the page (before 2023)");
    for (const view of content.views) await unpackAll(view);
    const page = new Page(content);
    main.classList.toggle("two", page.views.length === 2);
    main.append(...page.views.map((view) => view.element));
    for (const view of page.views) {
      view.element.addEventListener("pointerdown", () => {
        page.active = view;
      });
      view.element.addEventListener("focusin", () => {
        page.active = view;
      });
    }
    page.redraw();
    main.removeAttribute("aria-busy");
  } catch (error) {
    const trouble = document.getElementById("trouble");
    trouble.textContent = `The page cannot be drawn: ${error.message}.`;
    trouble.hidden = false;
    throw error;
  }
}
