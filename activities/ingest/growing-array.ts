type Numbers = Uint8Array | Uint32Array | Float64Array;

/** A typed array that grows as values are added: its memory lies outside the JavaScript heap. */
export class GrowingArray<T extends Numbers> {
  length = 0;
  #values: T;
  constructor(private readonly Type: new (length: number) => T) {
    this.#values = new Type(1024);
  }

  push(value: number): void {
    if (this.length === this.#values.length) {
      const grown = new this.Type(2 * this.length);
      grown.set(this.#values);
      this.#values = grown;
    }
    this.#values[this.length++] = value;
  }

  get values(): T {
    return this.#values.subarray(0, this.length) as T;
  }
}
