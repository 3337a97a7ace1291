import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { parse } from 'yaml';
import type { ModelRef } from '../../contracts/stages.js';
import { BinaryFile } from '../../engine/formats/binary-file.js';
import { readGgufHeader } from '../../engine/formats/gguf-header.js';
import { builtInModels } from './built-in-models.js';
import type { LocalModel } from './models.js';
import { parseSourceUri } from './source-uri.js';

/** What a model card says of its base. */
export type ModelOrigin = Pick<ModelRef, 'hubName' | 'license' | 'languages'>;

/** Where a model comes from, as its URI, its README.md and its GGUF metadata say; what none of them say is left out. */
export async function modelOrigin(uri: string, { path, card }: Pick<LocalModel, 'path' | 'card'>): Promise<ModelOrigin> {
  const source = parseSourceUri(uri, Object.keys(builtInModels), 'model');
  const hubName = source.kind === 'hub' ? source.repository.name : source.kind === 'built-in' ? builtInModels[source.name].hubName : undefined;
  const stated = { ...(await fromGguf(path)), ...fromCard(await card()) };
  return { ...(hubName !== undefined && { hubName }), ...stated };
}

/** The front matter of a README.md; nothing when it is no YAML, as the card is only for people. */
function fromCard(text: string | undefined): ModelOrigin {
  const [, front] = /^---\r?\n([^]*?)\r?\n---/.exec(text ?? '') ?? [];
  try {
    const json = (parse(front ?? '') ?? {}) as { license?: unknown; license_name?: unknown; language?: unknown };
    // `other` is what the hub calls a license that has a name of its own.
    const license = json.license === 'other' ? (json.license_name ?? json.license) : json.license;
    return origin(license, json.language);
  } catch {
    return {};
  }
}

async function fromGguf(path: string): Promise<ModelOrigin> {
  const name = (await stat(path)).isDirectory() ? (await readdir(path)).find((entry) => entry.endsWith('.gguf')) : '';
  const file = name === undefined ? undefined : name === '' ? path : join(path, name);
  if (file === undefined || !file.endsWith('.gguf')) return {};
  const opened = await BinaryFile.open(file);
  try {
    const { metadata } = await readGgufHeader(opened, (key) => !key.startsWith('general.'));
    return origin(metadata.get('general.license'), metadata.get('general.languages'));
  } finally {
    await opened.close();
  }
}

function origin(license: unknown, languages: unknown): ModelOrigin {
  const list = [languages].flat().filter((language): language is string => typeof language === 'string');
  return { ...(typeof license === 'string' && license !== '' && { license }), ...(list.length > 0 && { languages: list }) };
}
