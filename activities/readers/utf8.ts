import { badDataset, type DatasetFile } from './dataset-file.js';
import { fileBytes } from './file-bytes.js';

const NEWLINE = 0x0a;

/** The text of a file, decompressed, a byte order mark at its start removed, in pieces. Bytes that are not UTF-8 are an error that names their line. */
export async function* utf8Text(file: DatasetFile): AsyncGenerator<string> {
  const decoder = new TextDecoder('utf-8', { fatal: true });
  let line = 1;
  for await (const bytes of fileBytes(file)) {
    yield decode(bytes, true);
    line += countNewlines(bytes);
  }
  yield decode(Buffer.alloc(0), false);

  function decode(bytes: Buffer, stream: boolean): string {
    try {
      return decoder.decode(bytes, { stream });
    } catch {
      throw badDataset(file, `line ${line + newlinesBeforeBadByte(bytes)}`, 'expected UTF-8 text, got bytes that are not');
    }
  }
}

/** The lines of a file, without their ends (LF or CRLF), with their numbers from 1. */
export async function* utf8Lines(file: DatasetFile): AsyncGenerator<{ number: number; text: string }> {
  let rest = '';
  let number = 0;
  for await (const piece of utf8Text(file)) {
    const lines = (rest + piece).split('\n');
    rest = lines.pop()!;
    for (const line of lines) yield { number: ++number, text: line.endsWith('\r') ? line.slice(0, -1) : line };
  }
  if (rest !== '') yield { number: ++number, text: rest };
}

function countNewlines(bytes: Buffer): number {
  let count = 0;
  for (let at = bytes.indexOf(NEWLINE); at !== -1; at = bytes.indexOf(NEWLINE, at + 1)) count++;
  return count;
}

/** Line ends before the first line of a piece that is not UTF-8. The first line may have begun in an earlier piece, the last may go on in a later one. */
function newlinesBeforeBadByte(bytes: Buffer): number {
  let before = 0;
  let start = bytes.indexOf(NEWLINE) + 1;
  while (start > 0) {
    const end = bytes.indexOf(NEWLINE, start);
    const line = bytes.subarray(start, end === -1 ? undefined : end);
    before++;
    try {
      new TextDecoder('utf-8', { fatal: true }).decode(line, { stream: end === -1 });
    } catch {
      return before;
    }
    start = end + 1;
  }
  return 0;
}
