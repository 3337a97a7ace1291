import { randomUUID } from 'node:crypto';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { FormatError } from './format-error.js';

/** One read call takes at most this much; Node refuses more than 2^31 - 1 bytes. */
const chunkBytes = 1 << 30;

/** A file open for reading at any position, with its size known. */
export class BinaryFile {
  private constructor(
    readonly path: string,
    readonly size: number,
    private readonly handle: FileHandle,
  ) {}

  /** Throws `missing_file` when there is nothing to read at `path`. */
  static async open(path: string): Promise<BinaryFile> {
    let handle: FileHandle | undefined;
    try {
      handle = await open(path, 'r');
      const stats = await handle.stat();
      if (stats.isFile()) return new BinaryFile(path, stats.size, handle);
    } catch (error) {
      await handle?.close();
      const { code } = error as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ENOTDIR') throw new FormatError('missing_file', path, 'file: expected to exist, got none');
      if (code === 'EACCES' || code === 'EPERM') throw new FormatError('missing_file', path, 'file: expected to be readable, got permission denied');
      throw error;
    }
    await handle.close();
    throw new FormatError('missing_file', path, 'file: expected a regular file, got something else');
  }

  /** Fills `target` from `position`. The caller has checked that the file is long enough. */
  async fill(target: Uint8Array, position: number): Promise<void> {
    let done = 0;
    while (done < target.byteLength) {
      const { bytesRead } = await this.handle.read(target, done, Math.min(chunkBytes, target.byteLength - done), position + done);
      if (bytesRead === 0) {
        throw new FormatError('truncated', this.path, `file: expected at least ${position + target.byteLength} bytes, got ${position + done}`);
      }
      done += bytesRead;
    }
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}

/** Appends parts to the file being written, in order. */
export type Append = (bytes: Uint8Array) => Promise<void>;

/** Writes a file under a temporary name and renames it, so that `path` is either absent, the old file or the whole new one. */
export async function writeAtomically(path: string, write: (append: Append) => Promise<void>): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  const handle = await open(temporary, 'wx');
  try {
    try {
      await write(async (bytes) => {
        let done = 0;
        while (done < bytes.byteLength) {
          done += (await handle.write(bytes, done, Math.min(chunkBytes, bytes.byteLength - done))).bytesWritten;
        }
      });
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
