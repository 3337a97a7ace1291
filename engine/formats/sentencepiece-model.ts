import { readFile } from 'node:fs/promises';
import { BinaryFile } from './binary-file.js';
import { FormatError } from './format-error.js';
import { protobufFields } from './protobuf.js';

/** Kinds of a piece: ModelProto.SentencePiece.Type. The same numbers as a GGUF's token types. */
export const pieceKinds = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** TrainerSpec.ModelType. */
const algorithms: Record<number, 'unigram' | 'bpe' | 'word' | 'char'> = { 1: 'unigram', 2: 'bpe', 3: 'word', 4: 'char' };

/** A SentencePiece model as `tokenizer.model` has it. https://github.com/google/sentencepiece, sentencepiece_model.proto. */
export interface SentencePieceModel {
  path: string;
  algorithm: 'unigram' | 'bpe' | 'word' | 'char';
  /** In the order of their ids. */
  pieces: { text: string; score: number; kind: number }[];
  byteFallback: boolean;
  unknownId: number;
  /** Ids, absent where the model has none. */
  bosId?: number;
  eosId?: number;
  padId?: number;
  /** Rules by which text is normalised, compiled; empty for none. */
  charsmap: Buffer;
  /** A space is put in front of the text. */
  addsDummyPrefix: boolean;
  /** Spaces at both ends are cut, runs of them made one. */
  removesExtraWhitespaces: boolean;
  /** Spaces become `▁` and go with the word behind them, as in all models but a few old ones. */
  escapesWhitespaceInFront: boolean;
}

/** The largest models, of 256,000 pieces, are about 5 MB. */
const maxBytes = 64 * 1024 * 1024;

/** Reads a `tokenizer.model`. Throws `missing_file`, or `bad_header` when it is no SentencePiece model. */
export async function readSentencePieceModel(path: string): Promise<SentencePieceModel> {
  const file = await BinaryFile.open(path);
  await file.close();
  if (file.size > maxBytes) throw new FormatError('bad_header', path, `file: expected at most ${maxBytes} bytes, got ${file.size}`);
  const bytes = await readFile(path);
  if (/^[A-Za-z0-9+/]+={0,2} \d+\r?\n/.test(bytes.subarray(0, 200).toString('latin1'))) {
    throw new FormatError('unsupported', path, "file: expected a SentencePiece model, got tiktoken's ranks; such a model needs its tokenizer.json");
  }
  try {
    return parse(bytes, path);
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new FormatError('bad_header', path, `file: expected a SentencePiece model, got none (${error.message})`);
  }
}

function parse(bytes: Buffer, path: string): SentencePieceModel {
  const pieces: SentencePieceModel['pieces'] = [];
  let trainer = new Map<number, number | Buffer>();
  let normalizer = new Map<number, number | Buffer>();
  for (const { number, value } of protobufFields(bytes)) {
    if (number === 1) pieces.push(pieceOf(message(value)));
    if (number === 2) trainer = message(value);
    if (number === 3) normalizer = message(value);
  }
  if (pieces.length === 0) throw new RangeError('no pieces');
  /** -1 means that there is none; it is written as the two's complement of 64 bits. */
  const id = (field: number, fallback: number): number | undefined => {
    const value = (trainer.get(field) as number | undefined) ?? fallback;
    return value >= 0 && value < pieces.length ? value : undefined;
  };
  const charsmap = normalizer.get(2);
  return {
    path,
    algorithm: algorithms[(trainer.get(3) as number | undefined) ?? 1] ?? 'word',
    pieces,
    byteFallback: trainer.get(35) === 1,
    unknownId: id(40, 0) ?? 0,
    bosId: id(41, 1),
    eosId: id(42, 2),
    padId: id(43, -1),
    charsmap: Buffer.isBuffer(charsmap) ? charsmap : Buffer.alloc(0),
    addsDummyPrefix: normalizer.get(3) !== 0,
    removesExtraWhitespaces: normalizer.get(4) !== 0,
    escapesWhitespaceInFront: normalizer.get(5) !== 0 && trainer.get(24) !== 1,
  };
}

/** Fields by number, the last one where one occurs again. */
function message(value: number | Buffer): Map<number, number | Buffer> {
  if (!Buffer.isBuffer(value)) throw new RangeError('expected a message, got a number');
  return new Map([...protobufFields(value)].map((field) => [field.number, field.value]));
}

function pieceOf(fields: Map<number, number | Buffer>): SentencePieceModel['pieces'][number] {
  const text = fields.get(1);
  const score = new DataView(new ArrayBuffer(4));
  score.setUint32(0, (fields.get(2) as number | undefined) ?? 0);
  return { text: Buffer.isBuffer(text) ? text.toString('utf8') : '', score: score.getFloat32(0), kind: (fields.get(3) as number | undefined) ?? pieceKinds.normal };
}
