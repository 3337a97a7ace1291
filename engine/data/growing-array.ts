type Numbers = Uint8Array | Uint32Array | Int32Array | Float64Array;

/** A typed array that grows as values are added: its memory lies outside the JavaScript heap. */
export class GrowingArray<T extends Numbers> {
  length = 0;
  #values: T;
  constructor(private readonly Type: new (length: number) => T) {
    this.#values = new Type(1024);
  }

  push(value: number): void {
    this.#reserve(1);
    this.#values[this.length++] = value;
  }

  pushAll(values: ArrayLike<number>): void {
    this.#reserve(values.length);
    this.#values.set(values, this.length);
    this.length += values.length;
  }

  /** A view of what is there now; later values may be elsewhere. */
  get values(): T {
    return this.#values.subarray(0, this.length) as T;
  }

  #reserve(count: number): void {
    const needed = this.length + count;
    if (needed <= this.#values.length) return;
    const grown = new this.Type(Math.max(needed, 2 * this.#values.length));
    grown.set(this.#values);
    this.#values = grown;
  }
}
