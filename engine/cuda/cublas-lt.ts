import type { LibraryHandle } from 'koffi';
import { CudaError } from './cuda-error.js';
import type { CudaDevice } from './device.js';
import { loadLibrary, type LibraryPaths } from './libraries.js';
import type { Block } from './memory.js';
import { formatBytes, type Format } from './program.js';

/** A row-major matrix in device memory, or a batch of them. */
export interface MatrixOperand {
  address: number;
  format: Format;
  rows: number;
  columns: number;
  /** Elements from one row to the next. @default columns */
  stride?: number;
  /** Elements from one matrix of a batch to the next; 0 repeats the matrix. @default rows × stride */
  batchStride?: number;
}

/** Elements from one row to the next. */
export const strideOf = ({ columns, stride = columns }: MatrixOperand): number => stride;

/** out = alpha · op(a) · op(b) + beta · out, accumulated in float32. */
export interface Product {
  a: MatrixOperand;
  b: MatrixOperand;
  out: MatrixOperand;
  transposeA?: boolean;
  transposeB?: boolean;
  /** @default 1 */
  alpha?: number;
  /** @default 0: `out` need not be initialised */
  beta?: number;
  /** Address of a matrix laid out as `out`, which `beta` takes in its place. */
  addend?: number;
  /** @default 1 */
  batch?: number;
}

interface Plan {
  description: bigint;
  layouts: [bigint, bigint, bigint];
  algorithm: Buffer;
  workspaceBytes: number;
}

// Constants of cublasLt.h and library_types.h.
const COMPUTE_32F = 68;
const dataType: Partial<Record<Format, number>> = { f32: 0, bf16: 14 };
const DESCRIPTION = { transposeA: 3, transposeB: 4 } as const;
const LAYOUT = { batchCount: 5, batchStride: 6 } as const;
const PREFERENCE_WORKSPACE = 1;
const PREFERENCE_ALIGNMENT = [5, 6, 7, 8];
const HEURISTIC_BYTES = 96;
const ALGORITHM_BYTES = 64;
/** Of the library's ranking: without tuning only the first counts. */
const CANDIDATES = 32;
/** Runs of a candidate: first to warm up, then timed. Those that are this much slower than the best so far in one run are not timed further. */
const WARM_UP_RUNS = 1, TIMED_RUNS = 6, HOPELESS = 1.25;
export const WORKSPACE_BYTES = 32 << 20;

/**
 * Matrix products by cublasLt. A plan (description, layouts, algorithm) is made once per shape. The algorithm is the first
 * of the library's own ranking unless `tune` measured the candidates; a measured choice is kept on disk, so that later runs
 * on the same card make the same choice and get the same bits.
 */
export class CublasLt {
  readonly path: string;
  readonly version: string;
  private readonly library: LibraryHandle;
  private readonly handle: bigint;
  private readonly plans = new Map<string, Plan>();
  private readonly calls;
  private readonly alpha = Buffer.alloc(4);
  private readonly beta = Buffer.alloc(4);
  private workspace?: Block;
  /** Measure the candidates of a new shape instead of taking the library's first. */
  tune = false;

  constructor(
    private readonly device: CudaDevice,
    paths: LibraryPaths = {},
  ) {
    const { handle, path } = loadLibrary('cublasLt', paths);
    this.library = handle;
    this.path = path;
    this.calls = {
      matmul: this.bind(
        'int cublasLtMatmul(uint64, uint64, const void *, uint64, uint64, uint64, uint64, const void *, uint64, uint64, uint64, uint64, const void *, uint64, size_t, uint64)',
      ),
      description: this.bind('int cublasLtMatmulDescCreate(_Out_ void *, int, int)'),
      setDescription: this.bind('int cublasLtMatmulDescSetAttribute(uint64, int, const void *, size_t)'),
      layout: this.bind('int cublasLtMatrixLayoutCreate(_Out_ void *, int, uint64, uint64, int64)'),
      setLayout: this.bind('int cublasLtMatrixLayoutSetAttribute(uint64, int, const void *, size_t)'),
      preference: this.bind('int cublasLtMatmulPreferenceCreate(_Out_ void *)'),
      setPreference: this.bind('int cublasLtMatmulPreferenceSetAttribute(uint64, int, const void *, size_t)'),
      heuristic: this.bind('int cublasLtMatmulAlgoGetHeuristic(uint64, uint64, uint64, uint64, uint64, uint64, uint64, int, _Out_ void *, _Out_ void *)'),
      destroyPreference: this.bind('int cublasLtMatmulPreferenceDestroy(uint64)'),
    };
    const out = Buffer.alloc(8);
    this.bind('int cublasLtCreate(_Out_ void *)')(out);
    this.handle = out.readBigUInt64LE();
    const version = Number((handle.func('size_t cublasLtGetVersion()') as () => number | bigint)());
    this.version = String(version);
  }

  multiply(product: Product): void {
    const { a, b, out, alpha = 1, beta = 0, addend = out.address } = product;
    if (this.device.idle || out.rows === 0 || out.columns === 0 || product.batch === 0) return;
    const plan = this.plan(product);
    const run = () => this.run(plan, a.address, b.address, addend, out.address, alpha, beta);
    if (this.device.onLaunch) this.device.onLaunch(`product ${describe(product)}`, run);
    else run();
  }

  /** Row-major out = a·b is column-major outᵀ = bᵀ·aᵀ, so the library gets b first. */
  private run(plan: Plan, a: number, b: number, addend: number, out: number, alpha: number, beta: number): void {
    this.alpha.writeFloatLE(alpha);
    this.beta.writeFloatLE(beta);
    this.workspace ??= this.device.memory.allocate(WORKSPACE_BYTES, 'the workspace of matrix products');
    const [layoutA, layoutB, layoutOut] = plan.layouts;
    this.calls.matmul(
      this.handle, plan.description, this.alpha, b, layoutB, a, layoutA, this.beta, addend, layoutOut, out, layoutOut,
      plan.algorithm, this.workspace.address, plan.workspaceBytes, this.device.stream,
    );
    this.device.launches++;
  }

  /** Call before a graph is captured: the workspace must not belong to it. */
  reserveWorkspace(): void {
    this.workspace ??= this.device.memory.allocate(WORKSPACE_BYTES, 'the workspace of matrix products');
  }

  private plan(product: Product): Plan {
    const key = describe(product);
    const known = this.plans.get(key);
    if (known) return known;
    const { a, b, out, transposeA = false, transposeB = false, batch = 1 } = product;
    check(product);
    const description = this.create((buffer) => this.calls.description(buffer, COMPUTE_32F, 0));
    const flag = (on: boolean) => Buffer.from(Int32Array.of(on ? 1 : 0).buffer);
    this.calls.setDescription(description, DESCRIPTION.transposeA, flag(transposeB), 4);
    this.calls.setDescription(description, DESCRIPTION.transposeB, flag(transposeA), 4);
    const layouts = [a, b, out].map((operand) => this.layout(operand, batch)) as [bigint, bigint, bigint];
    const candidates = this.candidates(description, layouts, [b, a, out, out].map(alignment));
    if (candidates.length === 0) {
      throw new CudaError('no_matrix_algorithm', `cublasLt: expected an algorithm for ${key}, got none`);
    }
    const plan: Plan = { description, layouts, ...candidates[0] };
    this.plans.set(key, plan);
    if (this.tune && candidates.length > 1) Object.assign(plan, this.measured(key, plan, candidates, product));
    return plan;
  }

  /** The choice kept on disk for this shape, library and card, else the fastest of the candidates, which is then kept. */
  private measured(key: string, plan: Plan, candidates: Choice[], { a, b, out, beta = 0, batch = 1 }: Product): Choice {
    const parts = ['cublasLt', this.version, this.device.name, this.device.driverVersion, key];
    const kept = this.device.cache.get(parts, 'algorithm');
    const known = kept && candidates.find(({ algorithm }) => algorithm.equals(kept));
    if (known) return known;
    const { rows, columns, stride = columns, batchStride = rows * stride, format } = out;
    // What does not read `out` may write it: the product itself comes after.
    const scratch = beta === 0 ? undefined : this.device.memory.allocate(((batch - 1) * batchStride + rows * stride) * formatBytes[format], 'measuring matrix products');
    const { address } = scratch ?? out;
    const once = () => this.run(plan, a.address, b.address, address, address, 1, beta);
    const timed = (runs: number) => this.device.time(() => {
      for (let i = 0; i < runs; i++) once();
    }) / runs;
    let fastest = Infinity;
    const times = candidates.map((candidate) => {
      Object.assign(plan, candidate);
      for (let i = 0; i < WARM_UP_RUNS; i++) once();
      const first = timed(1);
      const time = first > fastest * HOPELESS ? first : timed(TIMED_RUNS);
      fastest = Math.min(fastest, time);
      return time;
    });
    if (scratch) this.device.memory.free(scratch);
    const best = candidates[times.indexOf(Math.min(...times))];
    this.device.cache.put(parts, 'algorithm', best.algorithm);
    return best;
  }

  private candidates(description: bigint, [a, b, out]: [bigint, bigint, bigint], alignments: number[]): Choice[] {
    const preference = this.create((buffer) => this.calls.preference(buffer));
    this.calls.setPreference(preference, PREFERENCE_WORKSPACE, Buffer.from(BigUint64Array.of(BigInt(WORKSPACE_BYTES)).buffer), 8);
    PREFERENCE_ALIGNMENT.forEach((attribute, i) => this.calls.setPreference(preference, attribute, Buffer.from(Uint32Array.of(alignments[i]).buffer), 4));
    const results = Buffer.alloc(HEURISTIC_BYTES * CANDIDATES), found = Buffer.alloc(4);
    this.calls.heuristic(this.handle, description, b, a, out, out, preference, CANDIDATES, results, found);
    this.calls.destroyPreference(preference);
    // cublasLtMatmulHeuristicResult_t: algorithm (64 bytes), workspace (8), status (4), waves (4), reserved (16).
    return Array.from({ length: found.readInt32LE() }, (_, i) => results.subarray(i * HEURISTIC_BYTES, (i + 1) * HEURISTIC_BYTES))
      .filter((result) => result.readInt32LE(ALGORITHM_BYTES + 8) === 0)
      .map((result) => ({ algorithm: Buffer.from(result.subarray(0, ALGORITHM_BYTES)), workspaceBytes: Number(result.readBigUInt64LE(ALGORITHM_BYTES)) }));
  }

  private layout(operand: MatrixOperand, batch: number): bigint {
    const { format, rows, columns, stride = columns, batchStride = rows * stride } = operand;
    const layout = this.create((buffer) => this.calls.layout(buffer, dataType[format], columns, rows, Math.max(stride, 1)));
    if (batch > 1) {
      this.calls.setLayout(layout, LAYOUT.batchCount, Buffer.from(Int32Array.of(batch).buffer), 4);
      this.calls.setLayout(layout, LAYOUT.batchStride, Buffer.from(BigInt64Array.of(BigInt(batchStride)).buffer), 8);
    }
    return layout;
  }

  private create(call: (buffer: Buffer) => void): bigint {
    const buffer = Buffer.alloc(8);
    call(buffer);
    return buffer.readBigUInt64LE();
  }

  private bind(declaration: string): (...args: unknown[]) => void {
    const name = /(cublas\w+)\(/.exec(declaration)![1];
    const native = this.library.func(declaration) as (...args: unknown[]) => number;
    return (...args) => {
      const status = native(...args);
      if (status !== 0) throw new CudaError('matrix_call_failed', `${name}: expected success, got cublasStatus_t ${status}`);
    };
  }
}

interface Choice {
  algorithm: Buffer;
  workspaceBytes: number;
}

/** Everything that a plan depends on. */
function describe({ a, b, out, transposeA = false, transposeB = false, batch = 1, beta = 0 }: Product): string {
  const one = (operand: MatrixOperand) => {
    const { format, rows, columns, stride = columns, batchStride = rows * stride } = operand;
    return `${format}[${rows},${columns}]/${stride}${batch > 1 ? `/${batchStride}` : ''}@${alignment(operand)}`;
  };
  return `${one(out)} ${beta === 0 ? '=' : '+='} ${one(a)}${transposeA ? 'T' : ''} x ${one(b)}${transposeB ? 'T' : ''} x${batch}`;
}

function check(product: Product): void {
  const { a, b, out, transposeA, transposeB } = product;
  const [rows, innerA] = transposeA ? [a.columns, a.rows] : [a.rows, a.columns];
  const [innerB, columns] = transposeB ? [b.columns, b.rows] : [b.rows, b.columns];
  if (rows !== out.rows || columns !== out.columns || innerA !== innerB || a.format !== b.format) {
    throw new CudaError('bad_product', `matrix product: expected operands that fit, got ${describe(product)}`);
  }
}

/** The largest power of two up to 16 that divides address and row stride in bytes: vector loads depend on it. */
function alignment({ address, format, columns, stride = columns }: MatrixOperand): number {
  const bytes = stride * (format === 'f32' ? 4 : 2);
  for (const size of [16, 8, 4]) if (address % size === 0 && bytes % size === 0) return size;
  return 2;
}
