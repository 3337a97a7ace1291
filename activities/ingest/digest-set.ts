/** 128 bits a row: the first four 32-bit words of a sha256, one row after the other. */
export type Digests = Uint32Array;

/** A set of rows by their digests, without the rows: 8 to 16 bytes for each that it may hold. */
export class DigestSet {
  readonly #table: Uint32Array; // row + 1; 0 is empty
  readonly #mask: number;

  /** @param most rows that may be added */
  constructor(private readonly digests: Digests, most: number) {
    const size = 2 ** Math.ceil(Math.log2(Math.max(2, 2 * most)));
    this.#table = new Uint32Array(size);
    this.#mask = size - 1;
  }

  /** Adds a row. False when one with its digest is there already. */
  add(row: number): boolean {
    const place = this.#find(row);
    if (this.#table[place] !== 0) return false;
    this.#table[place] = row + 1;
    return true;
  }

  has(row: number): boolean {
    return this.#table[this.#find(row)] !== 0;
  }

  /** Where a row with this digest is, or would be. */
  #find(row: number): number {
    const wanted = 4 * row;
    for (let place = (this.digests[wanted] & this.#mask) >>> 0; ; place = (place + 1) & this.#mask) {
      const found = this.#table[place];
      if (found === 0 || this.#equal(4 * (found - 1), wanted)) return place;
    }
  }

  #equal(a: number, b: number): boolean {
    const { digests } = this;
    return digests[a] === digests[b] && digests[a + 1] === digests[b + 1] && digests[a + 2] === digests[b + 2] && digests[a + 3] === digests[b + 3];
  }
}
