import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { allowedPath } from './allowed-path.js';
import { HubRepository } from './hub/hub-repository.js';
import { hubSettings } from './hub/hub-settings.js';
import { describeRepository, hubScheme } from './hub/hub-uri.js';
import { filesInBucket, filesOnHub, localFiles, type LocatedModel } from './models.js';
import { SourceError } from './source-error.js';
import type { SourceSettings } from './source-settings.js';
import { openBucket, parseSourceUri } from './source-uri.js';

/** What is read of a PEFT directory. */
const adapterFiles = ['adapter_config.json', 'adapter_model.safetensors'] as const;

/** Finds a PEFT directory by its URI without reading it. `fetch` brings it here when it is elsewhere. @throws SourceError */
export async function locateAdapter(uri: string, settings: SourceSettings): Promise<LocatedModel> {
  const source = parseSourceUri(uri, [], 'model');
  if (source.kind === 'file') {
    const directory = await allowedPath(source.uri, settings.dataRoots);
    requireFiles(await readdir(directory).catch(() => []), uri);
    const uriOf = (name: string): string => pathToFileURL(join(directory, name)).href;
    return { remote: false, fetch: () => Promise.resolve(localFiles(directory, directory, adapterFiles, settings, uriOf)) };
  }
  if (source.kind === 's3') {
    const bucket = openBucket(source.bucket, settings);
    const folder = `${source.key}/`;
    requireFiles((await bucket.list(folder)).map((key) => key.slice(folder.length)), uri);
    return filesInBucket(bucket, folder, adapterFiles, settings);
  }
  if (source.kind !== 'hub') throw new SourceError(`expected ${hubScheme}OWNER/NAME, file:PATH or s3://BUCKET/KEY, got '${uri}'`);
  const { path } = source.repository;
  const repository = await HubRepository.open(source.repository, settings.hub ?? hubSettings());
  const folder = path === '' ? '' : `${path}/`;
  const names = repository.files.flatMap((file) => (file.path.startsWith(folder) ? [file.path.slice(folder.length)] : []));
  requireFiles(names, `${describeRepository(source.repository)}${path === '' ? '' : `/${path}`}`, repository.outage);
  return filesOnHub(repository, folder, folder, adapterFiles, settings);
}

/** @param outage why the names may not be all */
function requireFiles(names: readonly string[], where: string, outage?: Error): void {
  if (adapterFiles.every((name) => names.includes(name))) return;
  const found = names.filter((name) => !name.includes('/')).slice(0, 12).join(', ') || 'no file';
  throw outage ?? new SourceError(`expected a PEFT directory, with ${adapterFiles.join(' and ')}, at ${where}, got ${found}`);
}
