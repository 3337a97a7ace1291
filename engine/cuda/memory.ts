import { CudaError } from './cuda-error.js';

/** A piece of device memory. `address` is 0 once it was freed. */
export interface Block {
  address: number;
  /** Rounded up to a multiple of 512. */
  bytes: number;
}

export interface MemorySource {
  /** @returns undefined when the device has not that much left */
  allocate(bytes: number): number | undefined;
  release(address: number): void;
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
}

/** Free pieces sorted by size, then address: the search takes the smallest that fits, so a run's layout is reproducible. */
class Pool {
  readonly small: Piece[] = [];
  readonly large: Piece[] = [];
  /** Set while a graph is captured: what it uses must not be handed to anyone else. */
  constructor(readonly name: string) {}
}

const GRANULE = 512;
const SMALL = 1 << 20;
const SMALL_SEGMENT = 2 << 20;
const LARGE_SEGMENT = 32 << 20;
const LARGE_GRANULE = 2 << 20;

/**
 * Keeps freed memory for the next request, because cudaMalloc and cudaFree wait for the device. Pieces are split and merged
 * with their neighbours. All work runs on one stream, so a freed piece may be handed out at once.
 */
export class CachingAllocator {
  private readonly segments = new Set<Segment>();
  private readonly main = new Pool('main');
  private current = this.main;
  private readonly statistics: MemoryStatistics = { inUse: 0, peakInUse: 0, reserved: 0, peakReserved: 0, blocks: 0, segments: 0 };

  /** Sees each block before it is handed out: tests fill it with values that must not be read. */
  onAllocate?: (block: Block) => void;

  /** @param limit never reserve more than this many bytes. @default no limit */
  constructor(
    private readonly source: MemorySource,
    private readonly limit = Infinity,
  ) {}

  /**
   * @param purpose names the allocation in the message when memory runs out
   * @throws CudaError `out_of_memory` (failure `outOfMemory`)
   */
  allocate(bytes: number, purpose: string): Block {
    const size = Math.max(GRANULE, Math.ceil(bytes / GRANULE) * GRANULE);
    const piece = this.takeFree(size) ?? this.takeNew(size) ?? this.refuse(size, purpose);
    this.split(piece, size);
    this.statistics.blocks++;
    this.statistics.inUse += piece.bytes;
    this.statistics.peakInUse = Math.max(this.statistics.peakInUse, this.statistics.inUse);
    this.onAllocate?.(piece);
    return piece;
  }

  free(block: Block): void {
    let piece = block as Piece;
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
   * What `run` allocates comes from memory of its own, which stays reserved until `release` is called: a captured graph
   * goes on using those addresses.
   */
  withPrivatePool<T>(name: string, run: () => T): { result: T; release: () => void } {
    const before = this.current;
    const pool = (this.current = new Pool(name));
    try {
      return { result: run(), release: () => this.adopt(pool) };
    } finally {
      this.current = before;
    }
  }

  /** Gives segments that are wholly free back to the device. @returns the bytes given back */
  trim(): number {
    let given = 0;
    for (const pool of [this.main.small, this.main.large]) {
      for (const piece of [...pool]) {
        if (piece.previous || piece.next) continue;
        this.unlist(piece);
        this.source.release(piece.segment.address);
        this.segments.delete(piece.segment);
        given += piece.segment.bytes;
      }
    }
    this.statistics.reserved -= given;
    this.statistics.segments = this.segments.size;
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

  private takeNew(size: number): Piece | undefined {
    const bytes = size < SMALL ? SMALL_SEGMENT : Math.max(LARGE_SEGMENT, Math.ceil(size / LARGE_GRANULE) * LARGE_GRANULE);
    // A large segment is first asked for in full, then in the bare size: near the limit the difference decides.
    for (const wanted of [...new Set([bytes, size < SMALL ? bytes : Math.ceil(size / LARGE_GRANULE) * LARGE_GRANULE])]) {
      // Giving memory back waits for the device, which a stream that is being recorded forbids.
      for (const trimFirst of this.current === this.main ? [false, true] : [false]) {
        if (trimFirst) this.trim();
        if (this.statistics.reserved + wanted > this.limit) continue;
        const address = this.source.allocate(wanted);
        if (address === undefined) continue;
        const segment: Segment = { address, bytes: wanted, pool: this.current };
        this.segments.add(segment);
        this.statistics.segments = this.segments.size;
        this.statistics.reserved += wanted;
        this.statistics.peakReserved = Math.max(this.statistics.peakReserved, this.statistics.reserved);
        return { address, bytes: wanted, segment, free: false };
      }
    }
    return undefined;
  }

  private refuse(size: number, purpose: string): never {
    const { free, total } = this.source.info();
    const { inUse, reserved } = this.statistics;
    throw new CudaError(
      'out_of_memory',
      `GPU memory: expected ${mebibytes(size)} for ${purpose}, got none: ${mebibytes(inUse)} in use, ${mebibytes(reserved - inUse)} cached in pieces too small, ` +
        `${mebibytes(free)} of ${mebibytes(total)} free on the device${this.limit === Infinity ? '' : `, limit ${mebibytes(this.limit)}`}; ` +
        'a smaller train.batchSize with more train.accumulation, or train.checkpointing: true, needs less',
      'outOfMemory',
    );
  }

  /** Keeps the first `size` bytes of a piece and lists the rest, unless the rest is too small to be of use. */
  private split(piece: Piece, size: number): void {
    const rest = piece.bytes - size;
    if (rest < GRANULE || (size >= SMALL && rest < SMALL)) return;
    const right: Piece = { address: piece.address + size, bytes: rest, segment: piece.segment, free: true, previous: piece, next: piece.next };
    if (piece.next) piece.next.previous = right;
    piece.next = right;
    piece.bytes = size;
    this.list(right);
  }

  private merge(left: Piece, right: Piece): void {
    this.unlist(right);
    this.join(left, right);
  }

  private join(left: Piece, right: Piece): Piece {
    left.bytes += right.bytes;
    left.next = right.next;
    if (right.next) right.next.previous = left;
    right.address = 0;
    return left;
  }

  private listOf(piece: Piece): Piece[] {
    return piece.segment.bytes <= SMALL_SEGMENT ? piece.segment.pool.small : piece.segment.pool.large;
  }

  private list(piece: Piece): void {
    const list = this.listOf(piece);
    list.splice(lowerBound(list, piece.bytes, piece.address), 0, piece);
  }

  private unlist(piece: Piece): void {
    const list = this.listOf(piece);
    list.splice(lowerBound(list, piece.bytes, piece.address), 1);
  }

  /** Moves a private pool's memory into the common one. */
  private adopt(pool: Pool): void {
    for (const segment of this.segments) if (segment.pool === pool) segment.pool = this.main;
    for (const piece of [...pool.small, ...pool.large]) this.list(piece);
    pool.small.length = pool.large.length = 0;
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

const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(bytes < 100 * 2 ** 20 ? 1 : 0)} MiB`;
