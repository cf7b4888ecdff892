"use strict";
// The page says everything without this script; hovering adds readings and rows.

for (const figure of document.querySelectorAll("[data-readout]")) {
  const { at, text } = JSON.parse(figure.dataset.readout);
  const frame = figure.querySelector(".frame");
  const readout = figure.querySelector(".readout");
  const cursor = document.createElement("i");
  cursor.className = "cursor";
  cursor.hidden = true;
  frame.append(cursor);
  frame.addEventListener("pointermove", (event) => {
    const box = frame.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * 100;
    let nearest = 0;
    at.forEach((value, k) => {
      if (Math.abs(value - place) < Math.abs(at[nearest] - place)) nearest = k;
    });
    cursor.hidden = false;
    cursor.style.left = at[nearest] + "%";
    readout.textContent = text[nearest];
  });
  frame.addEventListener("pointerleave", () => {
    cursor.hidden = true;
    readout.textContent = "";
  });
}

const map = document.querySelector(".map");
if (map) {
  const svg = map.querySelector("svg");
  const tip = map.querySelector(".tip");
  const words = JSON.parse(document.getElementById("map-words").textContent);
  const sheet = map.querySelector("img");
  const dots = [...svg.querySelectorAll("circle")];
  const rowOf = new Map();
  for (const group of svg.querySelectorAll("g")) {
    const rows = group.dataset.rows.split(" ");
    group.querySelectorAll("circle").forEach((dot, k) => rowOf.set(dot, Number(rows[k])));
  }
  dots.sort((a, b) => rowOf.get(a) - rowOf.get(b));
  const places = dots.map((dot) => [dot.cx.baseVal.value, dot.cy.baseVal.value]);
  let here = -1;

  const leave = () => {
    if (here >= 0) dots[here].classList.remove("here");
    here = -1;
    tip.hidden = true;
  };

  const show = (k) => {
    leave();
    here = k;
    const row = rowOf.get(dots[k]);
    dots[k].classList.add("here");
    dots[k].parentNode.append(dots[k]);
    tip.querySelector("span").textContent = words[row];
    if (sheet) {
      const width = Number(sheet.dataset.tileWidth);
      const height = Number(sheet.dataset.tileHeight);
      const columns = Number(sheet.dataset.columns);
      const canvas = tip.querySelector("canvas");
      canvas.width = width;
      canvas.height = height;
      canvas.style.width = (84 * width) / Math.max(width, height) + "px";
      canvas
        .getContext("2d")
        .drawImage(sheet, (row % columns) * width, Math.floor(row / columns) * height, width, height, 0, 0, width, height);
    }
    tip.hidden = false;
    const box = svg.getBoundingClientRect();
    const scale = box.width / svg.viewBox.baseVal.width;
    const x = places[k][0] * scale;
    const y = places[k][1] * scale;
    const [w, h] = [tip.offsetWidth, tip.offsetHeight];
    const right = x + 16 + w <= box.width;
    let left = right ? x + 16 : x - 16 - w;
    let top = y - h / 2;
    if (left < 0) {
      // Neither side has room: above the point, or below.
      left = Math.min(Math.max(0, x - w / 2), box.width - w);
      top = y - 16 - h >= 0 ? y - 16 - h : y + 16;
    }
    tip.style.left = Math.max(0, left) + "px";
    tip.style.top = Math.max(0, Math.min(top, box.height - h)) + "px";
  };

  const nearest = (event) => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const x = (event.clientX - box.left) * scale;
    const y = (event.clientY - box.top) * scale;
    let best = -1;
    let least = (18 * scale) ** 2;
    places.forEach(([px, py], k) => {
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least && !dots[k].parentNode.classList.contains("dim")) [best, least] = [k, distance];
    });
    return best;
  };

  const follow = (event) => {
    const k = nearest(event);
    if (k < 0) leave();
    else if (k !== here) show(k);
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") leave();
    if (!step) return;
    event.preventDefault();
    show((here + step + dots.length) % dots.length);
  });

  const chips = [...map.querySelectorAll(".chip")];
  const dimAllBut = (name) => {
    for (const group of svg.querySelectorAll("g")) {
      group.classList.toggle("dim", name !== null && group.dataset.name !== name);
    }
  };
  const pressed = () => chips.find((chip) => chip.getAttribute("aria-pressed") === "true")?.dataset.name ?? null;
  for (const chip of chips) {
    chip.addEventListener("pointerenter", () => dimAllBut(chip.dataset.name));
    chip.addEventListener("pointerleave", () => dimAllBut(pressed()));
    chip.addEventListener("click", () => {
      const on = chip.getAttribute("aria-pressed") !== "true";
      for (const other of chips) other.setAttribute("aria-pressed", "false");
      chip.setAttribute("aria-pressed", String(on));
      dimAllBut(pressed());
    });
  }
}
