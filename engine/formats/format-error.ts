import { basename } from 'node:path';
import { EngineError } from '../errors.js';

/** What can be wrong with a file of a model, an adapter or a tokenizer. */
export type FormatErrorCode =
  | 'missing_file'
  | 'wrong_magic'
  | 'truncated'
  | 'bad_header'
  | 'unsupported'
  | 'missing_tensor'
  | 'wrong_shape'
  | 'nan_weights';

/** A file that cannot be used as it is. The message starts with the file's name: "model.gguf: file: expected N bytes, got M". */
export class FormatError extends EngineError {
  constructor(
    code: FormatErrorCode,
    /** The file's path as it was given. */
    readonly path: string,
    message: string,
  ) {
    super('invalidInput', code, `${basename(path)}: ${message}`);
    this.name = 'FormatError';
  }
}
