/** Protocol Buffers' wire format, as far as SentencePiece models use it. https://protobuf.dev/programming-guides/encoding/ */

/** A field's value: a number for varints and fixed-width fields (as bits), the bytes for strings and messages. */
export interface ProtobufField {
  number: number;
  value: number | Buffer;
}

const wireTypes = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

/** Walks the fields of a message, nested ones left as bytes. Throws a RangeError with the place where the bytes are no message. */
export function* protobufFields(bytes: Buffer): Generator<ProtobufField> {
  let at = 0;
  const varint = (): number => {
    let value = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (at >= bytes.length) throw new RangeError(`byte ${at}: expected more, got the end`);
      const byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new RangeError(`byte ${at}: expected a number of at most 10 bytes`);
  };
  const take = (length: number): Buffer => {
    if (length > bytes.length - at) throw new RangeError(`byte ${at}: expected ${length} more, got ${bytes.length - at}`);
    return bytes.subarray(at, (at += length));
  };
  while (at < bytes.length) {
    const start = at;
    const key = varint();
    const number = Math.floor(key / 8);
    switch (key % 8) {
      case wireTypes.varint:
        yield { number, value: varint() };
        break;
      case wireTypes.bytes:
        yield { number, value: take(varint()) };
        break;
      case wireTypes.fixed32:
        yield { number, value: take(4).readUInt32LE() };
        break;
      case wireTypes.fixed64:
        yield { number, value: Number(take(8).readBigUInt64LE()) };
        break;
      default:
        throw new RangeError(`byte ${start}: expected a field of kind 0, 1, 2 or 5, got ${key % 8}`);
    }
  }
}
