// Parses a streamed response.

export async function* serverSentEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    if (!value.includes("\n")) continue; // a large image arrives in many parts
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const line = block.split("\n").find((one) => one.startsWith("data: "));
      if (line) yield JSON.parse(line.slice(6));
      else yield { type: "comment", text: block };
    }
  }
}

export function imageUrl(event) {
  const bytes = Uint8Array.from(atob(event.b64_json), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: `image/${event.output_format}` }));
}
