// Shows the document of the interface. A proxy may have put a prefix before this page that the
// service does not know of, so where the document names no server, this page's folder is one.
"use strict";

async function start() {
  const response = await fetch("openapi.json");
  if (!response.ok) {
    throw new Error(`openapi.json: ${response.status} ${await response.text()}`);
  }
  const spec = await response.json();
  spec.servers ??= [{ url: new URL(".", location.href).pathname.replace(/\/$/, "") || "/" }];
  SwaggerUIBundle({
    spec,
    dom_id: "#swagger-ui",
    deepLinking: true,
    validatorUrl: null,
    presets: [SwaggerUIBundle.presets.apis],
  });
}

start().catch((error) => {
  document.getElementById("swagger-ui").textContent = String(error);
});
