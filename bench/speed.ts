/**
 * The speed table on this machine's GPU: training steps of OpenLLaMA-3b-v2's shape (random weights, NF4 with double quantisation,
 * r = 8 on all eight modules, dropout 0.05, AdamW and clipping included) and the article's whole job, both through the trainer;
 * generation; loading from disk; the floor; and other trainers, where Python has them. Each in a process of its own.
 *   npx tsx bench/speed.ts [OUTPUT FOLDER] [training|article|generation|loading|peers ...]       @default bench/results, all of them
 * Writes <card>.json and <card>.md. Rows that were not asked for are taken over from the folder's file.
 */
import { execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, extname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

interface Row {
  name: string;
  /** Null for what has no tokens. */
  tokensPerSecond: number | null;
  peakGiB: number | null;
  floorTokensPerSecond: number | null;
  peers: Record<string, { tokensPerSecond: number; peakGiB?: number }>;
  /** Of a whole job, or of loading. */
  seconds?: number;
  /** Measured at; added when the row is written. */
  commit?: string;
}

const here = dirname(fileURLToPath(import.meta.url));
const extension = extname(fileURLToPath(import.meta.url));
const model = 'open-llama-3b-v2';
const ARTICLE = "the article's job: 4,750 rows, 3 epochs, evaluations included";
const LOADING = 'loading 3.4 G parameters from bf16 safetensors as NF4, the file in the system\'s cache';

/** Runs a script beside this one. @returns the lines marked ROW, and what it said of the device */
function run(script: string, ...args: string[]): { rows: Record<string, number>[]; device: string } {
  const loader = extension === '.ts' ? ['--import', 'tsx'] : [];
  const output = execFileSync(process.execPath, [...loader, join(here, `${script}${extension}`), ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'] });
  console.log(output.trimEnd());
  const lines = output.split('\n');
  return { rows: lines.filter((line) => line.startsWith('ROW ')).map((line) => JSON.parse(line.slice(4)) as Record<string, number>), device: lines.find((line) => line.startsWith('cuda: ')) ?? '' };
}

const [folder = join(here, 'results'), ...wanted] = process.argv.slice(2);
const isWanted = (part: string) => wanted.length === 0 || wanted.includes(part);
/** Figures of other trainers from an earlier run, where this machine cannot give them. */
const earlier = JSON.parse(readFileSync(join(here, 'peers', 'earlier.json'), 'utf8')) as { measured: string; rows: Record<string, Row['peers']> };

/** Name, arguments of gpu-steps, tokens of a micro-batch, of which the floor is. */
const training: [name: string, args: string[], tokens: number][] = [
  ['16 x 256', ['16', '256', '1', 'tune'], 4096],
  ['4 x 256, 4 accumulated', ['4', '256', '4', 'tune'], 1024],
  ['4 x 2048', ['4', '2048', '1', 'tune'], 8192],
  ['4 x 2048, recomputing', ['4', '2048', '1', 'tune', 'recompute'], 8192],
  ['16 x 256, lowest memory', ['16', '256', '1', 'tune', 'recompute'], 4096],
];

const order = [...training.map(([name]) => name), ARTICLE, ...[1, 16, 64].map((batch) => `generate, batch ${batch}`), LOADING];
const date = new Date().toISOString().slice(0, 10);
const commit = commitOf();

/** A bundle runs outside of a repository: TEMPER_COMMIT names its commit. */
function commitOf(): string {
  try {
    return process.env.TEMPER_COMMIT ?? execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return 'unknown';
  }
}

/** Measured last, so that they keep nothing waiting; until then a row has the earlier figures. */
const peersNow: PeerRow[] = [];
const peersOf = (name: string): Row['peers'] => ({
  ...earlier.rows[name], ...Object.fromEntries(peersNow.filter((row) => row.name === name).map(({ peer, tokensPerSecond, peakGiB }) => [peer, { tokensPerSecond, peakGiB }])),
});

function peersMeasured(): string {
  const now = [...new Set(peersNow.map(({ peer }) => peer))];
  return now.length > 0 ? `${now.join(', ')} in this run; others: ${earlier.measured}` : earlier.measured;
}

interface PeerRow {
  peer: string;
  name: string;
  tokensPerSecond: number;
  peakGiB: number;
}

/** Times another trainer by its script, a row after the other; none where Python or a library is missing, which is said. */
async function* peerRows(which: string): AsyncGenerator<PeerRow> {
  const script = spawn('python3', [join(here, 'peers', 'qlora.py'), which], { stdio: ['ignore', 'pipe', 'inherit'] });
  const ended = new Promise<string | undefined>((resolve) => {
    script.on('error', ({ message }) => resolve(message));
    script.on('close', (code) => resolve(code === 0 ? undefined : `ended with ${code}`));
  });
  for await (const line of createInterface({ input: script.stdout })) {
    if (line.startsWith('MISSING ')) console.log(`${which}: not measured: Python has no ${line.slice(8)}`);
    if (line.startsWith('ROW ')) yield JSON.parse(line.slice(4)) as PeerRow;
  }
  const problem = await ended;
  if (problem) console.log(`${which}: not measured to the end: ${problem}`);
}

const floorsNow = isWanted('training') ? run('gpu-steps', 'floor', model, ...new Set(training.map(([, , tokens]) => String(tokens)))) : undefined;
const floors = new Map(floorsNow?.rows.map(({ tokens, floorTokensPerSecond }) => [tokens, floorTokensPerSecond]));
let device = floorsNow?.device ?? '';
const rows: Row[] = [];
for (const [name, args, tokens] of isWanted('training') ? training : []) {
  const { rows: [{ tokensPerSecond, peakGiB }] } = run('gpu-steps', model, ...args);
  // Recomputing runs the forward products twice: three passes instead of two.
  const floor = floors.get(tokens)! * (args.includes('recompute') ? 2 / 3 : 1);
  record({ name, tokensPerSecond, peakGiB, floorTokensPerSecond: Math.round(floor), peers: peersOf(name) });
}
if (isWanted('article')) {
  const { rows: [{ seconds, tokens, peakGiB }], device: on } = run('gpu-article', model);
  device = on;
  record({ name: ARTICLE, seconds, tokensPerSecond: Math.round(tokens / seconds), peakGiB, floorTokensPerSecond: null, peers: {} });
}
if (isWanted('generation')) {
  const { rows: measured, device: on } = run('gpu-generate', model, '1', '16', '64');
  device = on;
  for (const { batch, tokensPerSecond } of measured) {
    const name = `generate, batch ${batch}`;
    record({ name, tokensPerSecond, peakGiB: null, floorTokensPerSecond: null, peers: peersOf(name) });
  }
}
if (isWanted('loading')) {
  const files = mkdtempSync(join(tmpdir(), 'temper-loading-'));
  try {
    const { rows: [{ seconds, peakGiB }], device: on } = run('gpu-load', model, files, 'nf4');
    device = on;
    record({ name: LOADING, seconds, tokensPerSecond: null, peakGiB, floorTokensPerSecond: null, peers: {} });
  } finally {
    rmSync(files, { recursive: true });
  }
}
for (const which of isWanted('peers') && rows.length > 0 ? ['unsloth', 'peft'] : []) {
  for await (const measured of peerRows(which)) {
    peersNow.push(measured);
    for (const row of rows) row.peers = peersOf(row.name);
    write();
  }
}
console.log(`\n${markdown()}`);

/** Adds a row and writes the files, so that a run that is cut short leaves what it measured. */
function record(row: Row): void {
  const known = rows.findIndex(({ name }) => name === row.name);
  rows.splice(known < 0 ? rows.length : known, known < 0 ? 0 : 1, { ...row, commit });
  write();
}

function write(): void {
  const file = join(folder, card().toLowerCase().replace(/[^a-z0-9]+/g, '-'));
  const before = existsSync(`${file}.json`) ? (JSON.parse(readFileSync(`${file}.json`, 'utf8')) as { rows: Row[] }).rows : [];
  rows.push(...before.filter(({ name }) => order.includes(name) && !rows.some((row) => row.name === name)));
  rows.sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  const result = { card: card(), driver: driver(), software: device, commit, date, model, peersMeasured: peersMeasured(), rows };
  mkdirSync(folder, { recursive: true });
  writeFileSync(`${file}.json`, `${JSON.stringify(result, null, 2)}\n`);
  writeFileSync(`${file}.md`, markdown());
}

/** The driver's version; unknown where its tool is not installed. */
function driver(): string {
  try {
    return execFileSync('nvidia-smi', ['--query-gpu=driver_version', '--format=csv,noheader'], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).split('\n')[0];
  } catch {
    return 'unknown';
  }
}

function card(): string {
  return /^cuda: (.*?) \(/.exec(device)![1];
}

function markdown(): string {
  const names = [...new Set(rows.flatMap((row) => Object.keys(row.peers)))];
  const cell = (entry?: { tokensPerSecond: number | null; peakGiB?: number | null }) => (entry ? `${entry.tokensPerSecond?.toLocaleString('en-US') ?? '–'}${entry.peakGiB ? `, ${entry.peakGiB} GiB` : ''}` : '–');
  return [
    `# ${card()}`,
    '',
    `${model}'s shape, random weights; tokens a second and peak memory in use. Commit ${commit}, ${date}. Driver ${driver()}. ${device}`,
    '',
    `Peers: ${peersMeasured()}.`,
    '',
    `| tokens a step | Temper | floor | share of the floor | ${names.join(' | ')} |`,
    `|---|---|---|---|${names.map(() => '---').join('|')}|`,
    ...rows.map((row) => `| ${row.name}${row.seconds === undefined ? '' : `: ${row.seconds} s`}${row.commit === commit ? '' : ` (at ${row.commit ?? 'an earlier commit'})`} | ${cell(row)} | ${row.floorTokensPerSecond?.toLocaleString('en-US') ?? '–'} | ${row.floorTokensPerSecond && row.tokensPerSecond ? `${Math.round((100 * row.tokensPerSecond) / row.floorTokensPerSecond)}%` : '–'} | ${names.map((name) => cell(row.peers[name])).join(' | ')} |`),
    '',
  ].join('\n');
}
