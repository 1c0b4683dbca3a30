// Parses a streamed response.

export async function* serverSentEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    if (!value.includes("\n")) continue; // a large image arrives in many parts
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) {
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6)); // every event has one line of data
      else if (line.startsWith(":")) yield { type: "comment", text: line };
    }
  }
}

export function imageUrl(event) {
  const bytes = Uint8Array.from(atob(event.b64_json), (letter) => letter.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: `image/${event.output_format}` }));
}
