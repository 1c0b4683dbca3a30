// Code that generates an image of the gallery again.

const exact = (image) => ({ ...image.body, n: 1, seed: image.seed });

export function asCurl(api, image, withKey) {
  const body = JSON.stringify(exact(image)).replaceAll("'", "'\\''");
  const lines = [`curl ${new URL("images/generations", api)}`, "-H 'Content-Type: application/json'"];
  if (withKey) lines.push('-H "Authorization: Bearer $OPENAI_API_KEY"');
  lines.push(`-d '${body}'`);
  return lines.join(" \\\n  ");
}

export function asPython(api, image, withKey) {
  const { prompt, size, n, ...extra } = exact(image);
  return [
    "import base64",
    ...(withKey ? ["import os"] : []),
    "",
    "from openai import OpenAI",
    "",
    `key = ${withKey ? 'os.environ["OPENAI_API_KEY"]' : '"unused"'}`,
    `client = OpenAI(base_url=${JSON.stringify(String(api).replace(/\/$/, ""))}, api_key=key)`,
    "answer = client.images.generate(",
    `    prompt=${JSON.stringify(prompt)},`,
    `    size=${JSON.stringify(size)},`,
    `    extra_body=${JSON.stringify(extra)},`,
    ")",
    'with open("image.png", "wb") as file:',
    "    file.write(base64.b64decode(answer.data[0].b64_json))",
  ].join("\n");
}
