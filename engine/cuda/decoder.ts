import type { Tensor, Tensor2D, Tensor4D } from '@tensorflow/tfjs-core';
import type { DecoderLinear, DecoderModel, DecoderOptions, DecoderSampling, FusedDecoder } from '../tensor/decoder.js';
import type { FrozenWeight } from '../tensor/weight-types.js';
import type { CudaBackend } from './backend.js';
import type { CudaDevice } from './device.js';
import { HostMemory, StreamEvent } from './host-memory.js';
import type { Block } from './memory.js';
import type { KernelArgument } from './program.js';
import { decodeAttentionPlan } from './programs/decode-attention.cu.js';
import { decodeLinearPlan, type DecodeKind, type DecodeLinearPlan, type DecodeLinearShape, type DecodeOutput } from './programs/decode-linear.cu.js';
import { decodeLinearWgmmaPlan, fitsDecodeWgmma } from './programs/decode-linear-wgmma.cu.js';
import {
  decodeEmbeddingProgram, decodeFillProgram, decodeKeepProgram, decodeLowProgram, decodeState, decodeStateRows,
} from './programs/decode-ops.cu.js';
import { decodeArgMaxProgram, decodeSampleProgram } from './programs/decode-pick.cu.js';
import { LaunchRecordings, type Launch, type RecordedLaunches } from './recorded-launches.js';
import { withWeight } from './weights.js';

/** Steps queued ahead of the host, which so never keeps the device waiting; as many are made in vain at the end. */
const AHEAD = 4;
/** Values of the query heads that share a key head, which attention holds in shared memory. */
const MOST_QUERY_VALUES = 2048;

/** Bytes of page-locked memory for a step's tokens, at least. */
const LANDING_BYTES = 4096;

/** Where a step's tokens come to, and a point in the stream after that. */
interface Landing {
  event: StreamEvent;
  host: HostMemory;
}

/** A step whose tokens were not read yet. */
interface Pending extends Landing {
  rows: readonly number[];
}

/** What the decoders of a device share, as it is dear to make. */
interface Lasting {
  recordings: LaunchRecordings;
  landings: Landing[];
}

const lastingByDevice = new WeakMap<CudaDevice, Lasting>();

function lastingOf(device: CudaDevice): Lasting {
  let lasting = lastingByDevice.get(device);
  if (!lasting) lastingByDevice.set(device, (lasting = { recordings: new LaunchRecordings(device), landings: [] }));
  return lasting;
}

/**
 * Decode steps on CUDA. All state is on the device: the cache of keys and values, written in place, each row's token and position. A
 * step is some nine launches a layer, recorded as one graph and replayed; its tokens come back beside the steps that follow. Rows
 * that have ended go on into nothing until half of the batch has; then the others move together and the step is recorded anew. A step
 * that is recorded already, by an earlier decoder too, is replayed as it is.
 */
export class CudaDecoder implements FusedDecoder {
  readonly ahead = AHEAD;
  private readonly blocks: Block[] = [];
  private readonly keys: Block[];
  private readonly values: Block[];
  private readonly state: Block;
  /** Float32 [rows, hidden]: the residual stream. */
  private readonly stream: Block;
  private readonly hidden: number;
  private readonly vocabulary: number;
  private readonly slots: number;
  private rows: readonly number[];
  /** From the residual stream to the next tokens: the last part of a step. */
  private finish: Launch[];
  private recorded?: RecordedLaunches;
  private started = false;
  private readonly pending: Pending[] = [];
  private readonly lasting: Lasting;
  /** Addresses by what they are for; made once, in the size of the whole batch. */
  private readonly buffers = new Map<string, Block>();

  static fits(model: DecoderModel): boolean {
    const { heads, kvHeads, headDim, embedding, blocks } = model;
    const linears = blocks.flatMap(({ query, key, value, output, gate, up, down }) => [[query, key, value], [output], [gate, up], [down]]);
    // A branch with magnitudes (DoRA) is no branch of this kind; a matrix that is trained stays in float32.
    const plain = [...linears.flat(), model.head, { weight: embedding }].every(({ weight, lora }: DecoderLinear) => lora?.magnitude === undefined && !(weight.kind === 'dense' && weight.trained));
    const alike = (group: DecoderLinear[]) => new Set(group.map(({ weight }) => kindOf(weight))).size === 1;
    return plain && headDim % 4 === 0 && (heads / kvHeads) * headDim <= MOST_QUERY_VALUES && embedding.shape[1] % 16 === 0
      && linears.every((group) => alike(group) && group.every(({ weight }) => weight.shape[1] % 16 === 0)) && model.head.weight.shape[0] < 2 ** 22;
  }

  constructor(
    private readonly backend: CudaBackend,
    private readonly model: DecoderModel,
    private readonly options: DecoderOptions,
  ) {
    const { lengths, capacity } = options;
    const { kvHeads, headDim, blocks, embedding } = model;
    this.slots = lengths.length;
    [this.vocabulary] = model.head.weight.shape;
    this.hidden = embedding.shape[1];
    this.rows = lengths.map((_, row) => row);
    this.lasting = lastingOf(backend.device);
    try {
      const cacheBytes = 2 * this.slots * capacity * kvHeads * headDim;
      this.keys = blocks.map(() => this.take(cacheBytes, 'cached keys'));
      this.values = blocks.map(() => this.take(cacheBytes, 'cached values'));
      this.stream = this.take(4 * this.slots * this.hidden, "the decoder's residual stream");
      this.state = this.take(4 * decodeStateRows * this.slots, "the decoder's rows");
      const state = new Int32Array(decodeStateRows * this.slots);
      lengths.forEach((length, row) => {
        state[decodeState.position * this.slots + row] = length - 1; // the first token that is picked moves it on
        state[decodeState.slot * this.slots + row] = row;
        state[decodeState.stream * this.slots + row] = row;
      });
      backend.device.upload(this.state, state);
      this.finish = this.finishLaunches();
    } catch (error) {
      this.freeBlocks(); // what was taken until memory ran out
      throw error;
    }
  }

  get place(): string {
    return [this.options.capacity, ...[...this.keys, ...this.values].map(({ address }) => address)].join(' ');
  }

  fill(layer: number, k: Tensor4D, v: Tensor4D): void {
    const { capacity } = this.options;
    const [rows, length, heads, size] = k.shape;
    this.backend.with('bf16', [k, v], (keys, values) => {
      for (const [cache, from] of [[this.keys[layer], keys], [this.values[layer], values]] as const) {
        this.backend.launch(decodeFillProgram(rows, length * heads * size), [
          { pointer: cache.address }, this.backend.pointer(from), { i64: length * heads * size }, { i64: capacity * heads * size },
        ]);
      }
    });
  }

  start(hidden: Tensor2D): void {
    this.backend.with('f32', [hidden], (values) => this.backend.device.copy(this.stream.address, this.backend.address(values), 4 * hidden.size));
  }

  queue(): void {
    const { device } = this.backend;
    if (!this.started) {
      this.started = true;
      this.launch(this.finish);
    } else if (this.recorded) this.recorded.replay();
    else {
      // Made only now, while the device reads the prompts.
      const launches = [...this.stepLaunches(), ...this.finish];
      if (device.onLaunch) this.launch(launches); // a profile wants to see each
      else {
        this.recorded = this.lasting.recordings.of(launches);
        this.recorded.replay();
      }
    }
    const pending: Pending = { ...this.landing(), rows: this.rows };
    device.driver.call('int cuMemcpyDtoHAsync_v2(uint64, uint64, size_t, uint64)')(pending.host.address, this.state.address, 4 * this.rows.length, device.stream);
    pending.event.record();
    this.pending.push(pending);
  }

  read(): Promise<{ rows: readonly number[]; tokens: ArrayLike<number> }> {
    const { rows, event, host } = this.pending.shift()!;
    event.wait();
    const tokens = new Int32Array(host.bytes.buffer, 0, rows.length).slice();
    this.lasting.landings.push({ event, host });
    return Promise.resolve({ rows, tokens });
  }

  keep(rows: readonly number[]): void {
    if (rows.length === 0 || rows.length > this.rows.length / 2) return;
    const { device } = this.backend;
    const places = this.rows.flatMap((row, place) => (rows.includes(row) ? [place] : []));
    const kept = this.buffer('the rows to keep', 4 * this.slots);
    device.upload(kept, Int32Array.from(places));
    this.backend.launch(decodeKeepProgram(), [{ pointer: this.state.address }, { pointer: kept.address }, places.length, this.slots]);
    this.rows = places.map((place) => this.rows[place]);
    this.release();
    this.finish = this.finishLaunches();
  }

  dispose(): void {
    this.backend.device.synchronize();
    this.release();
    this.lasting.recordings.trim();
    this.lasting.landings.push(...this.pending.splice(0).map(({ event, host }) => ({ event, host })));
    this.freeBlocks();
  }

  /** Other decoders may have the recording now, or give it up. */
  private release(): void {
    if (this.recorded) this.lasting.recordings.release(this.recorded);
    this.recorded = undefined;
  }

  private freeBlocks(): void {
    for (const block of this.blocks) this.backend.device.memory.free(block);
  }

  private launch(launches: Launch[]): void {
    for (const { program, arguments: args } of launches) this.backend.launch(program, args);
  }

  /** A landing that an earlier step is done with, or a new one. */
  private landing(): Landing {
    const { device } = this.backend, { landings } = this.lasting, bytes = 4 * this.slots;
    const fitting = landings.findIndex(({ host }) => host.bytes.length >= bytes);
    return fitting < 0 ? { event: new StreamEvent(device), host: new HostMemory(device, Math.max(bytes, LANDING_BYTES)) } : landings.splice(fitting, 1)[0];
  }

  private stepLaunches(): Launch[] {
    const { model, backend } = this;
    const count = this.rows.length;
    const tokens = this.stateAddress('token');
    // The table stays where it is: embeddings are never quantised.
    const embed = withWeight(backend, model.embedding, (table): Launch => ({
      program: decodeEmbeddingProgram(count, this.hidden),
      arguments: [{ pointer: this.stream.address }, { pointer: table.address }, { pointer: tokens }, this.hidden],
    }));
    return [embed, ...model.blocks.flatMap((_, layer) => this.blockLaunches(layer))];
  }

  private blockLaunches(layer: number): Launch[] {
    const { heads, kvHeads, headDim, rmsNormEps, blocks } = this.model;
    const { inputNorm, postAttentionNorm, query, key, value, output, gate, up, down, qkNorm, window, rotated } = blocks[layer];
    const { backend, slots, options } = this;
    const wide = gate.weight.shape[0];
    const normed = this.buffer('normed values', 2 * slots * this.hidden).address;
    const projected = this.buffer('queries, keys and values', 2 * slots * (heads + 2 * kvHeads) * headDim).address;
    const attended = this.buffer("attention's output", 2 * slots * heads * headDim).address;
    const gated = this.buffer('gated values', 2 * slots * wide).address;
    const plan = decodeAttentionPlan({
      rows: this.rows.length, heads, kvHeads, headSize: headDim, capacity: options.capacity, window, normalized: qkNorm !== undefined, rotated,
      multiprocessors: backend.device.multiprocessors,
    });
    const attend: Launch = {
      program: plan.program,
      arguments: [
        { pointer: attended }, { pointer: this.keys[layer].address }, { pointer: this.values[layer].address }, { pointer: projected },
        backend.pointer(options.rope.cos), backend.pointer(options.rope.sin), qkNorm ? backend.pointer(qkNorm.query) : none, qkNorm ? backend.pointer(qkNorm.key) : none,
        { pointer: this.stateAddress('position') }, { pointer: this.stateAddress('slot') }, this.parts(plan.partValues), this.counters(plan.counters), { f32: rmsNormEps }, ...plan.extent,
      ],
    };
    return [
      ...this.linear([query, key, value], this.stream.address, inputNorm, normed, 'store', projected),
      attend,
      ...this.linear([output], attended, undefined, attended, 'add', this.stream.address),
      ...this.linear([gate, up], this.stream.address, postAttentionNorm, normed, 'swiglu', gated),
      ...this.linear([down], gated, undefined, gated, 'add', this.stream.address),
    ];
  }

  private finishLaunches(): Launch[] {
    const { model, vocabulary, slots, options } = this;
    const count = this.rows.length;
    const normed = this.buffer('normed values', 2 * slots * this.hidden).address;
    const logits = this.buffer('logits', 4 * slots * vocabulary).address;
    const common: KernelArgument[] = [{ pointer: this.state.address }, slots, { pointer: logits }, vocabulary, options.capacity];
    return [
      ...this.linear([model.head], this.stream.address, model.norm, normed, 'logits', logits),
      options.sampling
        ? { program: decodeSampleProgram(count, isOrdered(options.sampling, vocabulary)), arguments: [...common, ...samplingArguments(options.sampling, vocabulary)] }
        : { program: decodeArgMaxProgram(count), arguments: common },
    ];
  }

  /** Linear layers that read the same values: first what is read is normalised and their branches' down projections are made. */
  private linear(layers: DecoderLinear[], from: number, norm: Tensor | undefined, x: number, output: DecodeOutput, out: number): Launch[] {
    const { backend } = this;
    const rows = this.rows.length;
    const ranks = layers.map(({ lora }) => lora?.a.shape[0] ?? 0), total = ranks.reduce((a, b) => a + b, 0);
    const inner = layers[0].weight.shape[1];
    const low = total > 0 ? this.buffer(`low values of ${total}`, 4 * this.slots * total).address : 0;
    const before: Launch = {
      program: decodeLowProgram({ rows, inner, ranks, normalized: norm !== undefined }),
      arguments: [
        { pointer: low }, { pointer: x }, { pointer: from }, norm ? backend.pointer(norm) : none, { f32: this.model.rmsNormEps },
        ...layers.flatMap(({ lora }): KernelArgument[] => [lora ? backend.pointer(lora.a) : none, { f32: lora?.scale ?? 0 }]),
      ],
    };
    const { plan, operand } = this.product({
      kind: kindOf(layers[0].weight), output, outs: layers.map(({ weight }) => weight.shape[0]), inner, ranks, biases: layers.map(({ bias }) => bias !== undefined), rows,
      multiprocessors: backend.device.multiprocessors,
    }, x);
    const product: Launch = {
      program: plan.program,
      arguments: [
        { pointer: out }, operand, { pointer: low }, this.parts(plan.partValues), this.counters(plan.counters), rows,
        ...layers.flatMap(({ weight, lora, bias }) => [...this.weightArguments(weight), lora ? backend.pointer(lora.b) : none, bias ? backend.pointer(bias) : none]),
      ],
    };
    return norm || total > 0 ? [before, product] : [product];
  }

  /** The kernel for this card, and x (bf16 [rows, inner]) as it takes it. */
  private product(shape: DecodeLinearShape, x: number): { plan: DecodeLinearPlan; operand: KernelArgument } {
    const { device } = this.backend;
    if (device.capability !== 90 || !fitsDecodeWgmma(shape)) return { plan: decodeLinearPlan(shape), operand: { pointer: x } };
    const plan = decodeLinearWgmmaPlan(shape);
    return { plan, operand: device.tensorMaps.of({ address: x, depth: 1, rows: shape.rows, columns: shape.inner }, plan.box) };
  }

  /** Codes, absmax, nested codes, offset. */
  private weightArguments(weight: FrozenWeight): KernelArgument[] {
    const { backend } = this;
    switch (weight.kind) {
      case 'dense':
        return withWeight(backend, weight, ({ address }): KernelArgument[] => [{ pointer: address }, none, none, { f32: 0 }]);
      case 'int8':
        return [backend.pointer(weight.codes), backend.pointer(weight.absmax), none, { f32: 0 }];
      case 'nf4':
        return weight.absmax.nested
          ? [backend.pointer(weight.codes), backend.pointer(weight.absmax.absmax), backend.pointer(weight.absmax.codes), { f32: weight.absmax.offset }]
          : [backend.pointer(weight.codes), backend.pointer(weight.absmax.values), none, { f32: 0 }];
    }
  }

  private stateAddress(row: keyof typeof decodeState): number {
    return this.state.address + 4 * decodeState[row] * this.slots;
  }

  private parts(values: number): KernelArgument {
    return { pointer: values > 0 ? this.buffer(`parts of ${values} values`, 4 * values).address : 0 };
  }

  /** Zero until a kernel counts in them, and zero again after it. */
  private counters(count: number): KernelArgument {
    return { pointer: count > 0 ? this.buffer(`${count} counters`, 4 * count, true).address : 0 };
  }

  private buffer(purpose: string, bytes: number, zero = false): Block {
    const known = this.buffers.get(purpose);
    if (known) return known;
    const block = this.take(bytes, `the decoder's ${purpose}`);
    if (zero) this.backend.device.fill(block.address, 0, bytes);
    this.buffers.set(purpose, block);
    return block;
  }

  private take(bytes: number, purpose: string): Block {
    const block = this.backend.device.memory.allocate(bytes, purpose);
    this.blocks.push(block);
    return block;
  }
}

const none = { pointer: 0 };

const kindOf = ({ kind }: FrozenWeight): DecodeKind => (kind === 'dense' ? 'bf16' : kind);

const isOrdered = ({ topP = 1, topK = Infinity }: DecoderSampling, vocabulary: number): boolean => topP < 1 || topK < vocabulary;

function samplingArguments({ temperature, topP = 1, topK = Infinity, seed }: DecoderSampling, vocabulary: number): KernelArgument[] {
  return [{ f32: 1 / temperature }, { f32: topP }, Math.min(topK, vocabulary), { u32: seed >>> 0 }, { u32: Math.floor(seed / 2 ** 32) >>> 0 }];
}
