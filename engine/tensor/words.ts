/** Bytes as int32 words (the only integers tfjs knows), padded with zeros to a multiple of `multiple` bytes, itself one of 4. */
export function toWords(bytes: Uint8Array | Int8Array, multiple: number): Int32Array {
  const padded = new Uint8Array(Math.ceil(bytes.length / multiple) * multiple);
  padded.set(new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.length));
  return new Int32Array(padded.buffer);
}

/** The first `length` bytes of int32 words; a view. */
export const fromWords = (words: Int32Array, length: number): Uint8Array => new Uint8Array(words.buffer, words.byteOffset, length);
