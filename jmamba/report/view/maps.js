// A map between tokens: scales of 16 bits, then codes of 8, as packing.py wrote them.
async function openMap(entry, count) {
  const bytes = await inflate(entry.data);
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const depth = Math.max(1, entry.layers.length);
  const rows = entry.whole ? count : 1;
  const perLayer = entry.whole ? (count * (count + 1)) / 2 : count;
  const codes = bytes.subarray(2 * depth * rows);
  const parts = Float64Array.from({ length: entry.steps + 1 }, (_, c) => {
    return (c / entry.steps) ** 2 / 65535;
  });

  const shareIn = (layer, i, j) => {
    const row = entry.whole ? i : 0;
    const start = entry.whole ? (i * (i + 1)) / 2 : 0;
    const scale = view.getUint16(2 * (layer * rows + row), true);
    return scale * parts[codes[layer * perLayer + start + j]];
  };
  const mean = (i, j) => {
    let sum = 0;
    for (let k = 0; k < depth; k++) sum += shareIn(k, i, j);
    return sum / depth;
  };
  return {
    ...entry,
    // What token i reads of token j; layer null is the mean of all.
    share(layer, i, j) {
      if (j > i) return 0;
      if (!entry.whole && i !== count - 1) return null;
      return layer === null ? mean(i, j) : shareIn(layer, i, j);
    },
  };
}

async function inflate(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream();
  const whole = stream.pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(whole).arrayBuffer());
}
