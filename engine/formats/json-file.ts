import { readFile } from 'node:fs/promises';
import { FormatError } from './format-error.js';
import { BinaryFile } from './binary-file.js';

/** tokenizer.json of the largest vocabularies is about 35 MB. */
const maxJsonBytes = 256 * 1024 * 1024;

/** Reads a JSON object. Throws `missing_file` or `bad_header`. */
export async function readJsonFile(path: string): Promise<Record<string, unknown>> {
  const file = await BinaryFile.open(path);
  await file.close();
  if (file.size > maxJsonBytes) throw new FormatError('bad_header', path, `file: expected at most ${maxJsonBytes} bytes, got ${file.size}`);
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    throw new FormatError('bad_header', path, `file: expected JSON, got ${(error as Error).message}`);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new FormatError('bad_header', path, 'file: expected a JSON object, got something else');
  return value as Record<string, unknown>;
}

/** As `readJsonFile`; undefined when there is no such file. */
export async function readOptionalJsonFile(path: string): Promise<Record<string, unknown> | undefined> {
  try {
    return await readJsonFile(path);
  } catch (error) {
    if (error instanceof FormatError && error.code === 'missing_file') return undefined;
    throw error;
  }
}
