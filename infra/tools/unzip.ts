import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { promisify } from 'node:util';
import yauzl from 'yauzl';

/** Extracts one entry of a zip file to `target`, whole or not at all. `mode` is the file's permissions. */
export async function unzipEntry(archive: string, entryName: string, target: string, mode = 0o644): Promise<void> {
  const zip = await promisify<string, yauzl.Options, yauzl.ZipFile>(yauzl.open)(archive, { lazyEntries: true, autoClose: false });
  const partial = `${target}.${process.pid}.partial`;
  try {
    const entry = await findEntry(zip, entryName);
    if (!entry) throw new Error(`${archive}: expected an entry ${entryName}, found none`);
    await mkdir(dirname(target), { recursive: true });
    const stream = await promisify<yauzl.Entry, NodeJS.ReadableStream>(zip.openReadStream.bind(zip))(entry);
    await pipeline(stream, createWriteStream(partial, { mode }));
    await rename(partial, target);
  } finally {
    zip.close();
    await rm(partial, { force: true });
  }
}

function findEntry(zip: yauzl.ZipFile, name: string): Promise<yauzl.Entry | undefined> {
  return new Promise((resolve, reject) => {
    zip.on('entry', (entry: yauzl.Entry) => (entry.fileName === name ? resolve(entry) : zip.readEntry()));
    zip.on('end', () => resolve(undefined));
    zip.on('error', reject);
    zip.readEntry();
  });
}
