// Says in a sentence what this browser lacks, before anything is loaded. No module, so that it also
// runs where modules do not.

(function () {
  "use strict";
  // (module (func (result v128) (v128.const i32x4 0 0 0 0)))
  var simd = [
    0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 22, 1, 20, 0, 253, 12, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11,
  ];
  function findProblem() {
    if (location.protocol === "file:") {
      return "Browsers do not load modules from files. Serve this folder, for example with: python3 -m http.server";
    }
    if (typeof WebAssembly !== "object") {
      return "This browser has no WebAssembly, or it is switched off; the policy cannot play here without it.";
    }
    if (!WebAssembly.validate(new Uint8Array(simd))) {
      return "This browser's WebAssembly has no SIMD, which ONNX Runtime Web needs: Chrome 91, Firefox 89 or Safari 16.4 and later have it.";
    }
    if (!("noModule" in HTMLScriptElement.prototype) || typeof DecompressionStream !== "function") {
      return "This browser is too old for this page: Chrome 80, Firefox 113 or Safari 16.4 and later can show it.";
    }
    return "";
  }
  var problem = findProblem();
  if (problem) {
    document.documentElement.setAttribute("data-problem", problem);
    document.getElementById("status").classList.add("problem");
    document.getElementById("status").setAttribute("role", "alert");
    document.getElementById("status-text").textContent = problem;
    document.getElementById("progress").hidden = true;
    return;
  }
  ["report.json", "runtime/ort-wasm-simd-threaded.wasm"].forEach(function (path) {
    var link = document.createElement("link");
    link.rel = "preload";
    link.as = "fetch";
    link.crossOrigin = "anonymous";
    link.href = path;
    document.head.appendChild(link);
  });
})();
