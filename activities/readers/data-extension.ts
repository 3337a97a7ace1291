import { extname } from 'node:path';

/** Compressed text is read as it is decompressed. */
export const compressedExtensions = ['.gz', '.zst', '.bz2'] as const;

/** The extension that tells a file's format: that of what is compressed, where it is. Lower case, with the dot. */
export function dataExtension(name: string): string {
  const outer = extname(name).toLowerCase();
  return (compressedExtensions as readonly string[]).includes(outer) ? extname(name.slice(0, -outer.length)).toLowerCase() : outer;
}
