/** Sums a V8 CPU profile by function: node bench/cpu-profile.mjs FILE. Lines of self time, the costliest first. */
import { readFileSync } from 'node:fs';
const { nodes, samples, timeDeltas } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const byId = new Map(nodes.map((node) => [node.id, node]));
const self = new Map();
samples.forEach((id, i) => {
  const { functionName, lineNumber } = byId.get(id).callFrame;
  const name = `${functionName || '(anonymous)'}:${lineNumber}`;
  self.set(name, (self.get(name) ?? 0) + timeDeltas[i] / 1000);
});
const total = [...self.values()].reduce((a, b) => a + b, 0);
console.log(`total ${total.toFixed(0)} ms`);
for (const [name, milliseconds] of [...self].sort((a, b) => b[1] - a[1]).slice(0, 40)) console.log(`${milliseconds.toFixed(0)} ms  ${name}`);
