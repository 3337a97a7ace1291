/**
 * The speed table on this machine's GPU: training steps of OpenLLaMA-3b-v2's shape (random weights, NF4 with double quantisation,
 * r = 8 on all eight modules, dropout 0.05, AdamW and clipping included), generation, and the floor, each in a process of its own.
 *   npx tsx bench/speed.ts [OUTPUT FOLDER]       @default bench/results
 * Writes <card>.json and <card>.md.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

interface Row {
  name: string;
  tokensPerSecond: number;
  peakGiB: number | null;
  floorTokensPerSecond: number | null;
  peers: Record<string, { tokensPerSecond: number; peakGiB?: number }>;
}

const here = dirname(fileURLToPath(import.meta.url));
const extension = extname(fileURLToPath(import.meta.url));
const model = 'open-llama-3b-v2';

/** Runs a script beside this one. @returns the lines marked ROW, and what it said of the device */
function run(script: string, ...args: string[]): { rows: Record<string, number>[]; device: string } {
  const loader = extension === '.ts' ? ['--import', 'tsx'] : [];
  const output = execFileSync(process.execPath, [...loader, join(here, `${script}${extension}`), ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
  console.log(output.trimEnd());
  const lines = output.split('\n');
  return { rows: lines.filter((line) => line.startsWith('ROW ')).map((line) => JSON.parse(line.slice(4)) as Record<string, number>), device: lines.find((line) => line.startsWith('cuda: ')) ?? '' };
}

const peersFile = join(here, 'peers.json');
const peers = JSON.parse(readFileSync(peersFile, 'utf8')) as { measured: string; rows: Record<string, Row['peers']> };

/** Name, arguments of gpu-steps, tokens of a product. */
const training: [name: string, args: string[], tokens: number][] = [
  ['16 x 256', ['16', '256', '1', 'tune'], 4096],
  ['4 x 256, 4 accumulated', ['4', '256', '4', 'tune'], 1024],
  ['4 x 2048', ['4', '2048', '1', 'tune'], 8192],
  ['4 x 2048, recomputing', ['4', '2048', '1', 'tune', 'recompute', 'lean'], 8192],
  ['16 x 256, lowest memory', ['16', '256', '1', 'tune', 'recompute', 'lean'], 4096],
];

const floors = new Map<number, number>();
const rows: Row[] = [];
let device = '';
for (const [name, args, tokens] of training) {
  if (!floors.has(tokens)) floors.set(tokens, run('gpu-steps', 'floor', model, String(tokens)).rows[0].floorTokensPerSecond);
  const result = run('gpu-steps', model, ...args);
  device = result.device;
  // Recomputing runs the forward products twice: three passes instead of two.
  const floor = floors.get(tokens)! * (args.includes('recompute') ? 2 / 3 : 1);
  rows.push({ name, tokensPerSecond: result.rows[0].tokensPerSecond, peakGiB: result.rows[0].peakGiB, floorTokensPerSecond: Math.round(floor), peers: peers.rows[name] ?? {} });
}
for (const { batch, tokensPerSecond } of run('gpu-generate', model, '1', '16', '64').rows) {
  const name = `generate, batch ${batch}`;
  rows.push({ name, tokensPerSecond, peakGiB: null, floorTokensPerSecond: null, peers: peers.rows[name] ?? {} });
}

const card = /^cuda: (.*?) \(/.exec(device)![1];
let commit = process.env.TEMPER_COMMIT ?? 'unknown';
try {
  commit = execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
} catch {
  // A bundle runs outside of a repository: TEMPER_COMMIT names it.
}
const result = { card, software: device, commit, date: new Date().toISOString().slice(0, 10), model, peersMeasured: peers.measured, rows };
const folder = process.argv[2] ?? join(here, 'results');
mkdirSync(folder, { recursive: true });
const file = join(folder, card.toLowerCase().replace(/[^a-z0-9]+/g, '-'));
writeFileSync(`${file}.json`, `${JSON.stringify(result, null, 2)}\n`);
writeFileSync(`${file}.md`, markdown());
console.log(`\n${markdown()}`);

function markdown(): string {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.peers)))];
  const cell = (entry?: { tokensPerSecond: number; peakGiB?: number | null }) => (entry ? `${entry.tokensPerSecond.toLocaleString('en-US')}${entry.peakGiB ? `, ${entry.peakGiB} GiB` : ''}` : '–');
  return [
    `# ${card}`,
    '',
    `${model}'s shape, random weights; tokens a second and peak memory in use. Commit ${commit}, ${result.date}. ${device}`,
    '',
    `Peers: ${peers.measured}.`,
    '',
    `| tokens a step | Temper | floor | share of the floor | ${names.join(' | ')} |`,
    `|---|---|---|---|${names.map(() => '---').join('|')}|`,
    ...rows.map((row) => `| ${row.name} | ${cell(row)} | ${row.floorTokensPerSecond?.toLocaleString('en-US') ?? '–'} | ${row.floorTokensPerSecond ? `${Math.round((100 * row.tokensPerSecond) / row.floorTokensPerSecond)}%` : '–'} | ${names.map((name) => cell(row.peers[name])).join(' | ')} |`),
    '',
  ].join('\n');
}
