"use strict";
// Every word must occur in a row, and the status be the chosen one. Without scripts all rows are shown.
(() => {
  const words = document.getElementById("search-words");
  const status = document.getElementById("search-status");
  const found = document.getElementById("search-found");
  const rows = [...document.querySelectorAll("#all-checks tbody tr")];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  const states = rows.map((row) => row.querySelector("[data-status]").dataset.status);
  const update = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, place) => {
      const match = (!status.value || states[place] === status.value) && wanted.every((word) => texts[place].includes(word));
      row.hidden = !match;
      shown += match;
    });
    found.textContent = `${shown} of ${rows.length} checks`;
  };
  words.addEventListener("input", update);
  status.addEventListener("change", update);
  document.querySelector(".search").hidden = false;
  update();
})();
