import type { MeasuredMemory } from '../tensor/replay.js';
import { CudaError } from './cuda-error.js';

/** A piece of device memory, not to be used once it was freed. */
export interface Block {
  address: number;
  /** Rounded up to a multiple of 512. */
  bytes: number;
}

export interface MemorySource {
  /** @returns undefined when the device has not that much left */
  allocate(bytes: number): number | undefined;
  release(address: number): void;
  /** Addresses without memory. */
  reserve(bytes: number): number;
  /** Puts memory behind reserved addresses; multiples of 2 MiB. @returns false when the device has not that much left */
  map(address: number, bytes: number): boolean;
  /** Gives back what `map` put there. */
  unmap(address: number, bytes: number): void;
  /** Free and total bytes of the device, for messages. */
  info(): { free: number; total: number };
}

export interface MemoryStatistics {
  /** Bytes in blocks that are in use, and their highest value since the last `resetPeak`. */
  inUse: number;
  peakInUse: number;
  /** Bytes taken from the device, and their highest value since the last `resetPeak`. */
  reserved: number;
  peakReserved: number;
  blocks: number;
  segments: number;
}

interface Piece extends Block {
  segment: Segment;
  free: boolean;
  previous?: Piece;
  next?: Piece;
}

interface Segment {
  address: number;
  bytes: number;
  pool: Pool;
  /** The last piece, of a segment that grows. */
  tail?: Piece;
}

/** Free pieces sorted by size, then address: the search takes the smallest that fits, so a run's layout is reproducible. */
class Pool {
  readonly small: Piece[] = [];
  readonly large: Piece[] = [];
  /** Large pieces lie in one range of addresses that grows at its end. */
  range?: Segment;
  constructor(readonly source: MemorySource) {}
}

const GRANULE = 512;
const SMALL = 1 << 20;
const SMALL_SEGMENT = 2 << 20;
const LARGE_SEGMENT = 32 << 20;
const LARGE_GRANULE = 2 << 20;
/** By how much the arena grows at least, and how far it may. */
const ARENA_STEP = 16 << 20;
const ARENA_ADDRESSES = 2 ** 40;
/** Addresses of what is measured and never used. */
const NOWHERE = 2 ** 46;

/**
 * Keeps freed memory for the next request, because cudaMalloc and cudaFree wait for the device. Pieces are split and merged
 * with their neighbours. All work runs on one stream, so a freed piece may be handed out at once.
 */
export class CachingAllocator {
  private segments = new Set<Segment>();
  private readonly main: Pool;
  private arena?: Pool;
  private current: Pool;
  private statistics = noStatistics();
  private measured?: MeasureRecord;

  /** Told when memory runs out, beside what is in use: what was expected to be, and what would help. */
  advice = 'a smaller train.batchSize with more train.accumulation, or train.checkpointing: true, needs less';

  /** Giving memory back waits for the device, which a stream that is being recorded forbids. */
  keepsSegments = false;

  /** Sees each block before it is handed out: tests fill it with values that must not be read. */
  onAllocate?: (block: Block) => void;

  /** @param limit never reserve more than this many bytes. @default no limit */
  constructor(
    private readonly source: MemorySource,
    private readonly limit = Infinity,
  ) {
    this.main = this.current = new Pool(source);
  }

  /**
   * @param purpose names the allocation in the message when memory runs out
   * @throws CudaError `out_of_memory` (failure `outOfMemory`)
   */
  allocate(bytes: number, purpose: string): Block {
    return this.allocateTogether([bytes], purpose)[0];
  }

  /** Blocks one after the other in one piece, so that those of one size lie at one distance from each other. Each is freed by itself. */
  allocateTogether(bytes: readonly number[], purpose: string): Block[] {
    const sizes = bytes.map((each) => Math.max(GRANULE, Math.ceil(each / GRANULE) * GRANULE)), size = sizes.reduce((a, b) => a + b);
    const whole = this.takeFree(size) ?? this.takeNew(size) ?? this.refuse(size, purpose);
    this.split(whole, size);
    const pieces = [whole];
    for (const each of sizes.slice(0, -1)) pieces.push(this.cut(pieces.at(-1)!, each));
    for (const piece of pieces) {
      this.statistics.blocks++;
      this.statistics.inUse += piece.bytes;
      this.statistics.peakInUse = Math.max(this.statistics.peakInUse, this.statistics.inUse);
      this.onAllocate?.(piece);
      this.note(piece, purpose);
    }
    return pieces;
  }

  free(block: Block): void {
    let piece = block as Piece;
    this.note(piece);
    if (piece.free) throw new CudaError('double_free', `memory: expected a block in use, got one freed before (${piece.bytes} bytes)`);
    this.statistics.blocks--;
    this.statistics.inUse -= piece.bytes;
    if (piece.next?.free) this.merge(piece, piece.next);
    if (piece.previous?.free) {
      const left = piece.previous;
      this.unlist(left);
      piece = this.join(left, piece);
    }
    piece.free = true;
    this.list(piece);
  }

  /**
   * What `run` allocates comes from the arena: memory apart from all other, in one range of addresses that only grows. Recorded graphs
   * work in it one after another, each from its start, so that together they need what the largest of them does.
   */
  inArena<T>(run: () => T): T {
    if (!this.arena) {
      this.arena = new Pool(this.source);
      this.arena.range = { address: this.source.reserve(ARENA_ADDRESSES), bytes: 0, pool: this.arena };
    }
    return this.within(this.arena, run);
  }

  /** What `run` allocates outlives any use of the arena. */
  outsideArena<T>(run: () => T): T {
    return this.within(this.main, run);
  }

  /** What `run` allocates comes from where a block came from. */
  beside<T>(block: Block, run: () => T): T {
    return this.within((block as Piece).segment.pool, run);
  }

  /** Gives the arena's memory back, of which nothing may be in use, also by graphs. */
  releaseArena(): void {
    const { arena } = this;
    if (!arena) return;
    const { address, bytes } = arena.range!;
    if (bytes > 0) this.source.unmap(address, bytes);
    this.statistics.reserved -= bytes + this.giveBack(arena.small);
    arena.range = { address, bytes: 0, pool: arena };
    arena.large.length = 0;
    this.statistics.segments = this.segments.size;
  }

  /** What `run` would take of the arena if it were empty. It gets addresses that lead nowhere; its blocks are gone afterwards. */
  measure(run: () => void): MeasuredMemory {
    const before = { current: this.current, statistics: this.statistics, segments: this.segments, onAllocate: this.onAllocate };
    let next = NOWHERE;
    const pool = new Pool({
      allocate: (bytes) => (next += bytes) - bytes,
      release: () => undefined,
      reserve: () => NOWHERE * 2,
      map: () => true,
      unmap: () => undefined,
      info: () => this.source.info(),
    });
    pool.range = { address: pool.source.reserve(0), bytes: 0, pool };
    const record: MeasureRecord = (this.measured = { purposes: new Map(), live: new Map(), peak: 0, atPeak: new Map(), lasting: new Map() });
    Object.assign(this, { current: pool, statistics: noStatistics(), segments: new Set<Segment>(), onAllocate: undefined });
    try {
      run();
      const lasting = [...record.lasting.values()].flatMap((blocks) => [...blocks.values()]).reduce((sum, bytes) => sum + bytes, 0);
      return { reserved: this.statistics.peakReserved, byPurpose: record.atPeak, lasting };
    } finally {
      this.measured = undefined;
      Object.assign(this, before);
    }
  }

  /** Counts a block that would be made once and outlive what is measured. @param owner with `name`, tells it from others */
  measureLasting(owner: object, name: string, bytes: number): void {
    const { lasting } = this.measured!;
    lasting.set(owner, (lasting.get(owner) ?? new Map<string, number>()).set(name, Math.ceil(bytes / GRANULE) * GRANULE));
  }

  /** The block was handed out by the `measure` that runs now. */
  isMeasured(block: Block): boolean {
    return this.measured?.purposes.has(block) ?? false;
  }

  /** Gives segments that are wholly free back to the device. @returns the bytes given back */
  trim(): number {
    const given = this.giveBack(this.main.small) + this.giveBack(this.main.large);
    this.statistics.reserved -= given;
    this.statistics.segments = this.segments.size;
    return given;
  }

  /** Gives back the segments that a list's free pieces fill. */
  private giveBack(list: Piece[]): number {
    let given = 0;
    for (const piece of [...list]) {
      if (piece.previous || piece.next) continue;
      this.unlist(piece);
      this.source.release(piece.segment.address);
      this.segments.delete(piece.segment);
      given += piece.segment.bytes;
    }
    return given;
  }

  memory(): MemoryStatistics {
    return { ...this.statistics };
  }

  resetPeak(): void {
    this.statistics.peakInUse = this.statistics.inUse;
    this.statistics.peakReserved = this.statistics.reserved;
  }

  private takeFree(size: number): Piece | undefined {
    const list = size < SMALL ? this.current.small : this.current.large;
    const piece = list[lowerBound(list, size, 0)];
    if (!piece) return undefined;
    this.unlist(piece);
    piece.free = false;
    return piece;
  }

  /** Counts a block that comes, or goes, towards what is measured. */
  private note(piece: Piece, purpose?: string): void {
    const record = this.measured;
    if (!record) return;
    const { purposes, live } = record;
    const name = (purpose ?? purposes.get(piece) ?? '').replace(/ \[.*$/, '');
    live.set(name, (live.get(name) ?? 0) + (purpose === undefined ? -piece.bytes : piece.bytes));
    if (purpose === undefined) purposes.delete(piece);
    else purposes.set(piece, name);
    if (this.statistics.inUse <= record.peak) return;
    record.peak = this.statistics.inUse;
    record.atPeak = new Map(live);
  }

  private within<T>(pool: Pool, run: () => T): T {
    const before = this.current;
    this.current = pool;
    try {
      return run();
    } finally {
      this.current = before;
    }
  }

  private takeNew(size: number): Piece | undefined {
    if (this.current.range && size >= SMALL) return this.grow(this.current.range, size);
    const whole = Math.ceil(size / LARGE_GRANULE) * LARGE_GRANULE;
    // What fits a shared segment at least twice shares one.
    const bytes = size < SMALL ? SMALL_SEGMENT : size > LARGE_SEGMENT / 2 ? whole : LARGE_SEGMENT;
    // A large segment is first asked for in full, then in the bare size: near the limit the difference decides.
    for (const wanted of [...new Set([bytes, size < SMALL ? bytes : whole])]) {
      for (const trimFirst of this.keepsSegments ? [false] : [false, true]) {
        if (trimFirst) this.trim();
        if (this.statistics.reserved + wanted > this.limit) continue;
        const address = this.current.source.allocate(wanted);
        if (address === undefined) continue;
        const segment: Segment = { address, bytes: wanted, pool: this.current };
        this.segments.add(segment);
        this.statistics.segments = this.segments.size;
        this.reserve(wanted);
        return { address, bytes: wanted, segment, free: false };
      }
    }
    return undefined;
  }

  /** Puts memory behind the range's end, so that a free piece of the size lies there. */
  private grow(range: Segment, size: number): Piece | undefined {
    const { tail } = range;
    const missing = size - (tail?.free ? tail.bytes : 0);
    const step = Math.ceil(missing / ARENA_STEP) * ARENA_STEP;
    for (const trimFirst of this.keepsSegments ? [false] : [false, true]) {
      if (trimFirst) this.trim();
      if (this.statistics.reserved + step > this.limit || !this.current.source.map(range.address + range.bytes, step)) continue;
      const added: Piece = { address: range.address + range.bytes, bytes: step, segment: range, free: false, previous: tail };
      range.bytes += step;
      this.reserve(step);
      if (!tail?.free) {
        if (tail) tail.next = added;
        return (range.tail = added);
      }
      this.unlist(tail);
      tail.bytes += step;
      tail.free = false;
      return tail;
    }
    return undefined;
  }

  private reserve(bytes: number): void {
    this.statistics.reserved += bytes;
    this.statistics.peakReserved = Math.max(this.statistics.peakReserved, this.statistics.reserved);
  }

  private refuse(size: number, purpose: string): never {
    const { free, total } = this.source.info();
    const { inUse, reserved } = this.statistics;
    throw new CudaError(
      'out_of_memory',
      `GPU memory: expected ${mebibytes(size)} for ${purpose}, got none: ${mebibytes(inUse)} in use, ${mebibytes(reserved - inUse)} cached in pieces too small, ` +
        `${mebibytes(free)} of ${mebibytes(total)} free on the device${this.limit === Infinity ? '' : `, limit ${mebibytes(this.limit)}`}; ${this.advice}`,
      'outOfMemory',
    );
  }

  /** Keeps the first `size` bytes of a piece and lists the rest, unless the rest is too small to be of use. */
  private split(piece: Piece, size: number): void {
    const rest = piece.bytes - size;
    if (rest < GRANULE || (size >= SMALL && rest < SMALL)) return;
    const right = this.cut(piece, size);
    right.free = true;
    this.list(right);
  }

  /** Leaves a piece its first `size` bytes. @returns the rest */
  private cut(piece: Piece, size: number): Piece {
    const right: Piece = { address: piece.address + size, bytes: piece.bytes - size, segment: piece.segment, free: false, previous: piece, next: piece.next };
    if (piece.next) piece.next.previous = right;
    piece.next = right;
    piece.bytes = size;
    if (piece.segment.tail === piece) piece.segment.tail = right;
    return right;
  }

  private merge(left: Piece, right: Piece): void {
    this.unlist(right);
    this.join(left, right);
  }

  private join(left: Piece, right: Piece): Piece {
    left.bytes += right.bytes;
    left.next = right.next;
    if (right.next) right.next.previous = left;
    if (right.segment.tail === right) right.segment.tail = left;
    right.address = 0;
    right.free = true; // also for who frees it again
    return left;
  }

  private listOf(piece: Piece): Piece[] {
    const { segment } = piece;
    return segment.bytes <= SMALL_SEGMENT && segment !== segment.pool.range ? segment.pool.small : segment.pool.large;
  }

  private list(piece: Piece): void {
    const list = this.listOf(piece);
    list.splice(lowerBound(list, piece.bytes, piece.address), 0, piece);
  }

  private unlist(piece: Piece): void {
    const list = this.listOf(piece);
    list.splice(lowerBound(list, piece.bytes, piece.address), 1);
  }
}

/** First index whose piece is not before (bytes, address). */
function lowerBound(list: Piece[], bytes: number, address: number): number {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    const piece = list[middle];
    if (piece.bytes < bytes || (piece.bytes === bytes && piece.address < address)) low = middle + 1;
    else high = middle;
  }
  return low;
}

interface MeasureRecord {
  /** Of the blocks that are there. */
  purposes: Map<Block, string>;
  /** Bytes that are there, by purpose, and the same when they were most. */
  live: Map<string, number>;
  peak: number;
  atPeak: Map<string, number>;
  /** Bytes of blocks that would stay, by owner and name. */
  lasting: Map<object, Map<string, number>>;
}

const noStatistics = (): MemoryStatistics => ({ inUse: 0, peakInUse: 0, reserved: 0, peakReserved: 0, blocks: 0, segments: 0 });

const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(bytes < 100 * 2 ** 20 ? 1 : 0)} MiB`;
