// Shows openapi.json with Swagger UI. Where the server wants a key it is asked for, kept until the tab is closed, and
// sent with every call.
"use strict";

const form = document.getElementById("key");
const secret = document.getElementById("secret");

function authorization() {
  const key = sessionStorage.getItem("td_api_key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function show() {
  const answer = await fetch("openapi.json", { headers: authorization() });
  if (answer.ok) {
    form.hidden = true;
    SwaggerUIBundle({
      spec: await answer.json(),
      dom_id: "#api",
      deepLinking: true,
      validatorUrl: null,
      requestInterceptor: (request) => {
        request.headers = { ...authorization(), ...request.headers };
        return request;
      },
    });
    return;
  }
  const wrong = sessionStorage.getItem("td_api_key") !== null;
  document.getElementById("refused").textContent =
    answer.status !== 401 ? `The server answered ${answer.status}.` : wrong ? "The server does not know this key." : "";
  sessionStorage.removeItem("td_api_key");
  form.hidden = false;
  secret.focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("td_api_key", secret.value.trim());
  show();
});

show();
