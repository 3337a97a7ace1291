/**
 * Pickles, restricted to plain data and to what the caller knows by name: nothing that a pickle names is looked up anywhere else,
 * so a hostile one can do no more than be refused. Python's pickletools.py has the opcodes.
 */
import { FormatError } from './format-error.js';

/** A pickle of 16 MB would list more than 100,000 tensors. */
export const maxPickleBytes = 16 * 1024 * 1024;

/** A tuple. Lists are arrays, dicts are maps. */
export class Tuple {
  constructor(readonly items: readonly unknown[]) {}
}

/** What a name in a pickle stands for: a value of its own, or a function that REDUCE may call with a tuple's items. */
export type PickleGlobal = { call(args: readonly unknown[]): unknown } | { value: object };

export interface PickleContext {
  /** The names that are known, e.g. `collections.OrderedDict`. Any other is refused. */
  globals: ReadonlyMap<string, PickleGlobal>;
  /** What a persistent id stands for. */
  persistent(id: unknown): unknown;
}

/** Of a refused opcode, what it would do; others are named by their number. */
const refusedOpcodes: Readonly<Record<number, string>> = {
  0x69: 'INST (make an object)', 0x6f: 'OBJ (make an object)', 0x81: 'NEWOBJ (make an object)', 0x92: 'NEWOBJ_EX (make an object)', 0x50: 'PERSID',
  0x82: 'EXT1', 0x83: 'EXT2', 0x84: 'EXT4', 0x97: 'NEXT_BUFFER', 0x98: 'READONLY_BUFFER', 0x96: 'BYTEARRAY8', 0x32: 'DUP',
};

/**
 * Reads one pickle. Values refer to each other as in the pickle and may contain themselves.
 * @param path named in errors
 * @throws FormatError `unsupported` for a name or an opcode that is not known, `truncated` or `bad_header` for a broken pickle
 */
export function unpickle(bytes: Uint8Array, context: PickleContext, path: string): unknown {
  if (bytes.length > maxPickleBytes) throw new FormatError('bad_header', path, `pickle: expected at most ${maxPickleBytes} bytes, got ${bytes.length}`);
  return new Unpickler(bytes, context, path).run();
}

class Unpickler {
  readonly #view: DataView;
  readonly #memo = new Map<number, unknown>();
  /** Values, and where on it each open MARK lies. */
  #stack: unknown[] = [];
  readonly #marks: number[] = [];
  #at = 0;

  constructor(private readonly bytes: Uint8Array, private readonly context: PickleContext, private readonly path: string) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  run(): unknown {
    for (;;) {
      const opcode = this.#byte();
      if (opcode === 0x2e) return this.#pop(); // STOP
      this.#execute(opcode);
    }
  }

  #execute(opcode: number): void {
    switch (opcode) {
      case 0x80: return this.#protocol();
      case 0x95: return void this.#take(8); // FRAME: its length tells nothing new
      case 0x4e: return this.#push(null); // NONE
      case 0x88: return this.#push(true); // NEWTRUE
      case 0x89: return this.#push(false); // NEWFALSE
      case 0x4a: return this.#push(this.#view.getInt32(this.#take(4), true)); // BININT
      case 0x4b: return this.#push(this.#byte()); // BININT1
      case 0x4d: return this.#push(this.#view.getUint16(this.#take(2), true)); // BININT2
      case 0x8a: return this.#push(this.#long(this.#byte())); // LONG1
      case 0x47: return this.#push(this.#view.getFloat64(this.#take(8))); // BINFLOAT
      case 0x58: return this.#push(this.#text(this.#uint32())); // BINUNICODE
      case 0x8c: return this.#push(this.#text(this.#byte())); // SHORT_BINUNICODE
      case 0x55: return this.#push(this.#text(this.#byte())); // SHORT_BINSTRING
      case 0x29: return this.#push(new Tuple([])); // EMPTY_TUPLE
      case 0x85: return this.#push(new Tuple([this.#pop()])); // TUPLE1
      case 0x86: return this.#push(new Tuple(this.#popSome(2))); // TUPLE2
      case 0x87: return this.#push(new Tuple(this.#popSome(3))); // TUPLE3
      case 0x28: return void this.#marks.push(this.#stack.length); // MARK
      case 0x74: return this.#push(new Tuple(this.#popMark())); // TUPLE
      case 0x5d: return this.#push([]); // EMPTY_LIST
      case 0x61: return this.#append([this.#pop()]); // APPEND
      case 0x65: return this.#append(this.#popMark()); // APPENDS
      case 0x7d: return this.#push(new Map()); // EMPTY_DICT
      case 0x73: return this.#setItems(this.#popSome(2)); // SETITEM
      case 0x75: return this.#setItems(this.#popMark()); // SETITEMS
      case 0x71: return this.#remember(this.#byte()); // BINPUT
      case 0x72: return this.#remember(this.#uint32()); // LONG_BINPUT
      case 0x94: return this.#remember(this.#memo.size); // MEMOIZE
      case 0x68: return this.#push(this.#recall(this.#byte())); // BINGET
      case 0x6a: return this.#push(this.#recall(this.#uint32())); // LONG_BINGET
      case 0x63: return this.#push(this.#global(this.#line(), this.#line())); // GLOBAL
      case 0x93: return this.#stackGlobal();
      case 0x52: return this.#reduce();
      case 0x62: return this.#build();
      case 0x51: return this.#push(this.context.persistent(this.#pop())); // BINPERSID
      default: throw this.#fail('unsupported', `expected what plain data and tensors are made of, got opcode ${refusedOpcodes[opcode] ?? `0x${opcode.toString(16).padStart(2, '0')}`}`);
    }
  }

  #protocol(): void {
    const version = this.#byte();
    if (version > 5) throw this.#fail('unsupported', `expected protocol 5 or below, got ${version}`);
  }

  #stackGlobal(): void {
    const [module, name] = this.#popSome(2);
    if (typeof module !== 'string' || typeof name !== 'string') throw this.#fail('bad_header', 'expected a global of two texts, got something else');
    this.#push(this.#global(module, name));
  }

  /** The only place in which a name gets a meaning. */
  #global(module: string, name: string): PickleGlobal {
    const full = `${module}.${name}`;
    const known = this.context.globals.get(full);
    if (!known) throw this.#fail('unsupported', `expected what plain data and tensors are made of, got ${JSON.stringify(full.slice(0, 80))}; nothing of it was run`);
    return known;
  }

  #reduce(): void {
    const [callable, args] = this.#popSome(2);
    if (!(args instanceof Tuple) || !isGlobal(callable, this.context) || !('call' in callable)) throw this.#fail('unsupported', 'expected a known function and a tuple to call it with, got something else');
    this.#push(callable.call(args.items));
  }

  /** Attributes of a dict (torch keeps `_metadata` there) are of no use here; anything else has none. */
  #build(): void {
    this.#pop();
    if (!(this.#top() instanceof Map)) throw this.#fail('unsupported', 'expected attributes of a dict, got those of something else');
  }

  #append(items: readonly unknown[]): void {
    const list = this.#top();
    if (!Array.isArray(list)) throw this.#fail('bad_header', 'expected a list to append to, got something else');
    for (const item of items) list.push(item);
  }

  #setItems(items: readonly unknown[]): void {
    const dict = this.#top();
    if (!(dict instanceof Map) || items.length % 2 !== 0) throw this.#fail('bad_header', 'expected a dict and pairs to put into it, got something else');
    for (let i = 0; i < items.length; i += 2) {
      const key = items[i];
      if (typeof key !== 'string' && typeof key !== 'number') throw this.#fail('unsupported', `expected keys that are text or numbers, got ${kindOf(key)}`);
      dict.set(key, items[i + 1]);
    }
  }

  #remember(place: number): void {
    this.#memo.set(place, this.#top());
  }

  #recall(place: number): unknown {
    if (!this.#memo.has(place)) throw this.#fail('bad_header', `expected something remembered as ${place}, got none`);
    return this.#memo.get(place);
  }

  #push(value: unknown): void {
    this.#stack.push(value);
  }

  #top(): unknown {
    this.#require(1);
    return this.#stack[this.#stack.length - 1];
  }

  #pop(): unknown {
    this.#require(1);
    return this.#stack.pop();
  }

  #popSome(count: number): unknown[] {
    this.#require(count);
    return this.#stack.splice(this.#stack.length - count);
  }

  #popMark(): unknown[] {
    const mark = this.#marks.pop();
    if (mark === undefined) throw this.#fail('bad_header', 'expected a MARK before, got none');
    return this.#stack.splice(mark);
  }

  /** Values above the last MARK. */
  #require(count: number): void {
    if (this.#stack.length - (this.#marks.at(-1) ?? 0) < count) throw this.#fail('bad_header', `expected ${count} value${count === 1 ? '' : 's'} on the stack, got fewer`);
  }

  #byte(): number {
    return this.bytes[this.#take(1)];
  }

  #uint32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  /** Whole numbers of at most 8 bytes that are exact. */
  #long(length: number): number {
    if (length > 8) throw this.#fail('unsupported', `expected whole numbers of at most 8 bytes, got one of ${length}`);
    const start = this.#take(length);
    let value = 0n;
    for (let i = 0; i < length; i++) value |= BigInt(this.bytes[start + i]) << BigInt(8 * i);
    const signed = Number(BigInt.asIntN(8 * length, value));
    if (!Number.isSafeInteger(signed)) throw this.#fail('unsupported', 'expected whole numbers below 2^53, got a larger one');
    return signed;
  }

  #text(length: number): string {
    const start = this.#take(length);
    return Buffer.from(this.bytes.buffer, this.bytes.byteOffset + start, length).toString('utf8');
  }

  #line(): string {
    const end = this.bytes.indexOf(0x0a, this.#at);
    if (end === -1) throw this.#fail('truncated', 'expected the end of a name, got the end of the pickle');
    const text = this.#text(end - this.#at);
    this.#at++;
    return text;
  }

  /** Moves on by some bytes. @returns where they begin */
  #take(count: number): number {
    const start = this.#at;
    if (count > this.bytes.length - start) throw this.#fail('truncated', `expected ${count} bytes more, got ${this.bytes.length - start}`);
    this.#at += count;
    return start;
  }

  #fail(code: 'unsupported' | 'truncated' | 'bad_header', message: string): FormatError {
    return new FormatError(code, this.path, `pickle: ${message} (byte ${this.#at})`);
  }
}

const isGlobal = (value: unknown, { globals }: PickleContext): value is PickleGlobal => [...globals.values()].includes(value as PickleGlobal);

/** A value in one word, for messages. */
export function kindOf(value: unknown): string {
  if (value === null) return 'None';
  if (value instanceof Map) return 'a dict';
  if (value instanceof Tuple) return 'a tuple';
  if (Array.isArray(value)) return 'a list';
  return typeof value === 'object' ? 'an object' : `a ${typeof value}`;
}
