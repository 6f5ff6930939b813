// Before the first paint: the choice of light or dark that this browser remembers.
(() => {
  "use strict";
  try {
    const theme = localStorage.getItem("pinwheel-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Without storage the system's preference holds.
  }
  document.documentElement.classList.add("js");
})();
