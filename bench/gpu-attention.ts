/**
 * Attention's kernels alone, on one Hopper GPU.
 *   gpu-attention check [PASS] [only=PART OF A CASE'S NAME]          Hopper's kernels beside the portable ones: odd lengths, packed rows, padding, windows, grouped heads
 *   gpu-attention time [PASS] [tiles]   milliseconds, TFLOP/s of what the mask leaves, and the share of a large bf16 product's rate; `tiles`: every tile size
 *   gpu-attention profile               one launch of each kernel that is chosen, for a profiler
 * `sectors`: the check takes tiles that begin at multiples of 32 bytes for the gradient to queries too, where a shape allows it.
 * PASS: forward, queryGradient or keyGradient; all by default. `unrotated`: gradients that need not be turned back by their positions' angles.
 */
import { attentionKernels, chosenTiles, portableAttention, wgmmaAttention, type AttentionGradientOperands, type AttentionKernels, type AttentionTiles } from '../engine/cuda/attention.js';
import { roomyPitch } from '../engine/cuda/backend.js';
import { CudaDevice } from '../engine/cuda/device.js';
import { attentionBoundsProgram } from '../engine/cuda/programs/attention-bounds.cu.js';
import { stateLength, type AttentionShape } from '../engine/cuda/programs/attention-shape.js';
import { fitsSectors, type WgmmaTiles } from '../engine/cuda/programs/attention-wgmma.cu.js';

type Pass = keyof AttentionKernels;
type Operand = Exclude<keyof AttentionGradientOperands, 'outStride' | 'dqStride' | 'dkvStride'>;
interface Case extends AttentionShape {
  name: string;
  segments: Int32Array;
  window?: number;
}

/** TFLOP/s of an 8192 x 8192 x 8192 bf16 product on an H100 80GB HBM3. */
const PRODUCT_RATE = 798;
const passes: Pass[] = ['forward', 'queryGradient', 'keyGradient'];
/** What each pass writes. */
const results: Record<Pass, Operand[]> = { forward: ['out', 'logSum'], queryGradient: ['dq', 'delta'], keyGradient: ['dk', 'dv'] };
/** Products of T x T x D that each pass has to make, one of them twice in the two gradients together. */
const products: Record<Pass, number> = { forward: 2, queryGradient: 3, keyGradient: 4 };
const tileChoices: Record<Pass, WgmmaTiles[]> = {
  forward: tiles([2, 128, 2, 1], [2, 128, 3, 1], [2, 128, 2, 1, true], [3, 96, 2, 1, true], [2, 128, 2, 2], [2, 96, 4, 1], [2, 64, 5, 1], [3, 96, 2, 1]),
  queryGradient: tiles([2, 128, 2, 1], [2, 112, 2, 1], [2, 112, 2, 1, true], [2, 96, 3, 1], [2, 64, 4, 1]),
  keyGradient: tiles([2, 80, 2, 2], [2, 80, 3, 1], [2, 64, 3, 2], [2, 64, 4, 1]),
};
function tiles(...choices: [number, number, number, 1 | 2, boolean?][]): WgmmaTiles[] {
  return choices.flatMap(([groups, streamed, stages, buffers, sectors], i) => (i < 2 ? [true, false] : [true]).map((turns) => ({ groups, streamed, stages, buffers, turns, sectors })));
}

const device = new CudaDevice();
const [what = 'check', ...flags] = process.argv.slice(2);
const rotated = !flags.includes('unrotated');
const wanted = passes.filter((pass) => flags.includes(pass));
const chosenPasses = wanted.length > 0 ? wanted : passes;
console.log(`${device.name}, compute capability ${device.capability / 10}`);

/** Uniform bf16 values in ±scale; long arrays repeat a million and a few. */
function randomBf16(count: number, scale: number): Uint16Array {
  const pool = Uint32Array.from(new Uint32Array(Float32Array.from({ length: Math.min(count, 1_000_003) }, () => (2 * Math.random() - 1) * scale).buffer), (bits) => bits >>> 16);
  const values = new Uint16Array(count);
  for (let at = 0; at < count; at += pool.length) values.set(pool.subarray(0, Math.min(pool.length, count - at)), at);
  return values;
}

/** Rows of the lengths that `next` gives, one behind the other, `padding` positions of 0 at the end of each line. */
function packed(batch: number, length: number, next: () => number, padding = 0): Int32Array {
  const segments = new Int32Array(batch * length);
  for (let row = 0; row < batch; row++) {
    for (let at = 0, segment = 1; at < length - padding; segment++) {
      const end = Math.min(at + next(), length - padding);
      segments.fill(segment, row * length + at, row * length + end);
      at = end;
    }
  }
  return segments;
}

/** Pairs of query and key that the mask leaves, of one head. */
function visiblePairs({ segments, length, window = length }: Case): number {
  let pairs = 0, run = 0;
  segments.forEach((segment, i) => {
    run = i % length > 0 && segment === segments[i - 1] ? run + 1 : 1;
    if (segment > 0) pairs += Math.min(run, window);
  });
  return pairs;
}

/** `out` has room at the ends of its rows where it has in a training, and the gradients' rows lie as far apart as there. */
function prepare({ batch, length, heads, kvHeads, headSize, segments, window = length }: Case): { operands: AttentionGradientOperands; sizes: Record<Operand, number>; free: () => void } {
  const columns = heads * headSize, outStride = columns % 8 === 0 ? roomyPitch(columns) : columns, angles = batch * length * (headSize / 2);
  const dqStride = (heads + 2 * kvHeads) * headSize, dkvStride = dqStride;
  const wide = batch * length * heads * headSize, narrow = batch * length * kvHeads * headSize, state = 2 * batch * heads * stateLength(length);
  const sizes = { q: wide, k: narrow, v: narrow, out: batch * length * outStride, logSum: state, bounds: 4 * batch * length, dOut: wide, dq: batch * length * dqStride, dk: batch * length * dkvStride, dv: batch * length * dkvStride, delta: state, cos: 2 * angles, sin: 2 * angles };
  const names = Object.keys(sizes) as (keyof typeof sizes)[];
  const blocks = names.map((name) => device.memory.allocate(Math.max(2, 2 * sizes[name]), name));
  blocks.forEach((block) => device.fill(block.address, 0xff, block.bytes));
  const scales: Partial<Record<keyof typeof sizes, number>> = { q: 2, k: 2, v: 1, dOut: 1 };
  names.forEach((name, i) => scales[name] && device.upload(blocks[i], randomBf16(sizes[name], scales[name])));
  const turns = Float32Array.from({ length: angles }, () => 2 * Math.PI * Math.random());
  for (const [name, of] of [['cos', Math.cos], ['sin', Math.sin]] as const) device.upload(blocks[names.indexOf(name)], turns.map(of));
  const ids = device.memory.allocate(4 * batch * length, 'segments');
  device.upload(ids, segments);
  const operands = { ...(Object.fromEntries(names.map((name, i) => [name, blocks[i].address])) as Record<Operand, number>), outStride, dqStride, dkvStride };
  device.launch(attentionBoundsProgram({ batch }), [{ pointer: operands.bounds }, { pointer: ids.address }, length, batch, window]);
  device.synchronize();
  return { operands, sizes, free: () => [ids, ...blocks].forEach((block) => device.memory.free(block)) };
}

function read(address: number, bf16Count: number, float32: boolean): Float32Array {
  const bits = new Uint16Array(bf16Count);
  device.download(address, bits);
  if (float32) return new Float32Array(bits.buffer);
  return new Float32Array(Uint32Array.from(bits, (value) => value << 16).buffer);
}

/** ‖a − b‖ / ‖b‖ of the values that b has; infinite ones must be equal. Where it is the largest: index of the worst value. */
function difference(a: Float32Array, b: Float32Array): { error: number; worst: number; wrong: number } {
  let sum = 0, norm = 0, worst = -1, most = -1, wrong = 0;
  for (let i = 0; i < b.length; i++) {
    if (Number.isNaN(b[i])) continue; // Nobody's: behind the last position.
    if (a[i] === b[i]) {
      if (Number.isFinite(b[i])) norm += b[i] ** 2;
      continue;
    }
    const gap = Math.abs(a[i] - b[i]);
    if (!Number.isFinite(gap)) wrong++;
    if (!(gap <= most)) [most, worst] = [gap, i];
    sum += gap ** 2;
    norm += b[i] ** 2;
  }
  // Where the reference is zero but for rounding, the error is measured against values of a thousandth.
  return { error: sum === 0 ? 0 : Math.sqrt(sum / Math.max(norm, 1e-6 * b.length)), worst, wrong };
}

/** As chosen, or with tiles of whole sectors in the passes that have registers for them. */
function checkedTiles(one: Case): AttentionTiles {
  const chosen = chosenTiles(one);
  if (!flags.includes('sectors') || !fitsSectors(one)) return chosen;
  return { ...chosen, forward: { ...chosen.forward, sectors: true }, queryGradient: { ...chosen.queryGradient, streamed: 112, sectors: true } };
}

function check(): void {
  const random = (most: number) => () => 1 + Math.floor(Math.random() ** 2 * most);
  const cases: Case[] = [];
  const add = (batch: number, length: number, heads: number, kvHeads: number, headSize: number, segments: Int32Array, window?: number) =>
    cases.push({ name: `B${batch} T${length} H${heads}/${kvHeads} D${headSize}${window ? ` window ${window}` : ''}`, batch, length, heads, kvHeads, headSize, segments, window, rotated });
  for (const headSize of [64, 104, 100, 128, 80, 96, 20]) add(1, 128, 2, 2, headSize, packed(1, 128, () => 128));
  for (const length of [1, 7, 63, 129, 257]) add(2, length, 4, 4, 100, packed(2, length, () => length));
  for (const headSize of [64, 80, 96, 100, 128]) add(2, 421, 6, headSize === 100 ? 6 : 2, headSize, packed(2, 421, random(200), 5));
  for (const window of [1, 33, 130]) add(1, 500, 4, 4, 100, packed(1, 500, random(900), 1), window);
  add(2, 300, 2, 2, 8, packed(2, 300, random(100)));
  add(1, 700, 2, 2, 64, new Int32Array(700).fill(1, 300, 650));
  add(1, 2048, 8, 8, 100, packed(1, 2048, () => 2048));
  let failures = 0;
  const only = flags.find((flag) => flag.startsWith('only='))?.slice(5) ?? '';
  for (const one of cases.filter(({ name }) => name.includes(only))) {
    const { operands, sizes, free } = prepare(one);
    const portable = portableAttention(device), hopper = wgmmaAttention(device, checkedTiles(one));
    for (const pass of passes) {
      portable[pass](one, operands);
      if (!chosenPasses.includes(pass)) continue;
      const expected = results[pass].map((name) => read(operands[name], sizes[name], name === 'logSum' || name === 'delta'));
      const got = [0, 1].map(() => {
        for (const name of results[pass]) device.fill(operands[name], 0xff, 2 * sizes[name]);
        hopper[pass](one, operands);
        return results[pass].map((name) => read(operands[name], sizes[name], name === 'logSum' || name === 'delta'));
      });
      const parts = results[pass].map((name, i) => {
        const { error, worst, wrong } = difference(got[0][i], expected[i]);
        const stable = got[0][i].every((value, j) => Object.is(value, got[1][i][j]));
        const good = error < 1.5e-2 && stable;
        if (!good) failures++;
        const columns = name === 'out' ? operands.outStride : (name === 'dk' || name === 'dv' ? one.kvHeads : one.heads) * one.headSize;
        return `${name} ${error.toExponential(1)}${stable ? '' : ' NOT STABLE'}${good ? '' : ` FAIL (${wrong} no numbers; worst at row ${Math.floor(worst / columns)} column ${worst % columns}: ${got[0][i][worst]} for ${expected[i][worst]})`}`;
      });
      console.log(`${one.name} ${pass}: ${parts.join(', ')}`);
    }
    free();
  }
  console.log(`${failures} failed`);
  process.exitCode = failures > 0 ? 1 : 0;
}

/** OpenLLaMA-3b-v2's heads, one row a line. */
const full = (batch: number, length: number): Case => ({
  name: `${batch} x ${length}`, batch, length, heads: 32, kvHeads: 32, headSize: 100, segments: packed(batch, length, () => length), rotated,
});

function time(): void {
  const cases: Case[] = [full(4, 2048), full(16, 256), { ...full(1, 4096), name: '16 rows of 256 in a line of 4096', segments: packed(1, 4096, () => 256) }];
  if (!flags.includes('tiles')) {
    cases.push({ ...full(4, 2048), name: '4 x 2048, window 512', window: 512 }, { ...full(4, 2048), name: '4 x 2048, 32/8 heads of 128', kvHeads: 8, headSize: 128 }, { ...full(4, 2048), name: '4 x 2048, 9/3 heads of 64', heads: 9, kvHeads: 3, headSize: 64 });
  }
  for (const one of cases) {
    const { operands, free } = prepare(one);
    const flops = (pass: Pass) => 2 * products[pass] * visiblePairs(one) * one.heads * one.headSize;
    const report = (kernels: AttentionKernels, pass: Pass, name: string) => {
      const run = () => kernels[pass](one, operands);
      for (let i = 0; i < 3; i++) run();
      const times = Array.from({ length: 11 }, () => device.time(run)).sort((a, b) => a - b);
      const rate = flops(pass) / times[5] / 1e9;
      console.log(`${one.name} | ${pass} | ${name} | ${times[5].toFixed(4)} ms | ${rate.toFixed(0)} TFLOP/s | ${((100 * rate) / PRODUCT_RATE).toFixed(0)}%`);
    };
    // A first run of each, so that every operand holds real values.
    for (const pass of passes) portableAttention(device)[pass](one, operands);
    for (const pass of chosenPasses) {
      report(portableAttention(device), pass, 'portable');
      if (!flags.includes('tiles')) report(attentionKernels(device, one), pass, 'chosen');
      else for (const choice of tileChoices[pass]) report(wgmmaAttention(device, { ...chosenTiles(one), [pass]: choice }), pass, `${choice.groups} groups, tiles of ${choice.streamed}, ${choice.stages} stages, ${choice.buffers} buffers${choice.turns ? ', in turn' : ''}${choice.sectors ? ', whole sectors' : ''}`);
    }
    free();
  }
}

function profile(): void {
  for (const one of [full(4, 2048), full(16, 256)]) {
    const { operands, free } = prepare(one);
    for (const pass of passes) attentionKernels(device, one)[pass](one, operands);
    device.synchronize();
    free();
  }
}

if (what === 'check') check();
else if (what === 'profile') profile();
else time();
