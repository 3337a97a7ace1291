import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Where compiled kernels and matrix-product choices are kept: TEMPER_CUDA_CACHE, else XDG_CACHE_HOME/temper/cuda, else ~/.cache/temper/cuda. */
export function cacheFolder(): string {
  return process.env.TEMPER_CUDA_CACHE ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'temper', 'cuda');
}

/** Files named by the digest of everything that decides their content. A folder that cannot be written is no error: the cache is then empty. */
export class DiskCache {
  constructor(private readonly folder = cacheFolder()) {}

  get(parts: readonly string[], extension: string): Buffer | undefined {
    try {
      return readFileSync(this.path(parts, extension));
    } catch {
      return undefined; // Not there yet, or unreadable: made anew.
    }
  }

  put(parts: readonly string[], extension: string, bytes: Uint8Array): void {
    const path = this.path(parts, extension);
    const temporary = `${path}.${process.pid}`;
    try {
      mkdirSync(this.folder, { recursive: true });
      writeFileSync(temporary, bytes);
      renameSync(temporary, path); // Whole or not at all, also with two processes.
    } catch {
      // A read-only home or a full disk costs the next start a compilation, nothing else.
    }
  }

  private path(parts: readonly string[], extension: string): string {
    const digest = createHash('sha256').update(parts.map((part) => `${part.length}:${part}`).join('')).digest('hex');
    return join(this.folder, `${digest}.${extension}`);
  }
}
