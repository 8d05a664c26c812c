// Before the first paint: the colours that were chosen here; nothing chosen: the system's.
(() => {
  let theme = null;
  try {
    theme = localStorage.getItem("wyvern.theme");
  } catch {
    // storage may be forbidden
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
})();
