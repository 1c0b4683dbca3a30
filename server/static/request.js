// Requests to the server that the page comes from.

import * as edit from "./edit.js";

const $ = (id) => document.getElementById(id);
export const api = new URL("v1/", document.baseURI);

export const hasKey = () => $("key").value.trim() !== "";

export function headers() {
  const key = $("key").value.trim();
  return key ? { authorization: `Bearer ${key}` } : {};
}

export async function send(body, signal) {
  const asked = { ...body, stream: true, partial_images: 3 };
  const address = new URL(edit.active() ? "images/edits" : "images/generations", api);
  if (edit.active()) {
    delete asked.size; // that of the image
    return fetch(address, { method: "POST", headers: headers(), body: await edit.formOf(asked), signal });
  }
  const json = { ...headers(), "content-type": "application/json" };
  return fetch(address, { method: "POST", headers: json, body: JSON.stringify(asked), signal });
}
