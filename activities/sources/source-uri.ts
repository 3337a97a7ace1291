import { InvalidInputError } from '../../contracts/errors.js';
import { nearest } from '../../contracts/nearest.js';
import type { ArtifactStore } from '../../store/artifact-store.js';
import { openStore } from '../../store/open-store.js';
import { StoreError } from '../../store/store-error.js';
import { hubScheme, parseHubUri, type HubUri, type RepositoryKind } from './hub/hub-uri.js';
import { SourceError } from './source-error.js';
import type { SourceSettings } from './source-settings.js';

export type SourceUri = { kind: 'file'; uri: string } | { kind: 's3'; bucket: string; key: string } | { kind: 'hub'; repository: HubUri } | { kind: 'built-in'; name: string };

/** Takes a URI as users write it apart. @param builtIn the known names @param wanted what it names on the hub @throws SourceError */
export function parseSourceUri(uri: string, builtIn: readonly string[], wanted: RepositoryKind): SourceUri {
  if (uri.startsWith('file:')) return { kind: 'file', uri };
  if (uri.startsWith(hubScheme)) return { kind: 'hub', repository: parseHubUri(uri, wanted) };
  const s3 = /^s3:\/\/([^/]+)\/(.+?)\/*$/.exec(uri);
  if (s3) return { kind: 's3', bucket: s3[1], key: s3[2] };
  if (builtIn.includes(uri)) return { kind: 'built-in', name: uri };
  if (uri.startsWith('s3:')) throw new SourceError(`expected s3://bucket/key, got '${uri}'`);
  const looksLikePath = /^[./~]|[\\/]|\.\w+$/.test(uri) && !/^\w+:/.test(uri);
  const guess = onHub(uri) ?? (looksLikePath ? `file:${uri}` : nearest(uri, builtIn));
  throw new SourceError(`expected hf://OWNER/NAME, file:PATH, s3://BUCKET/KEY${builtIn.length > 0 ? ` or a built-in name (${builtIn.join(', ')})` : ''}, got '${uri}'${guess ? `; did you mean '${guess}'?` : ''}`);
}

/** The hub URI behind a repository's bare name or the address of its page. */
function onHub(uri: string): string | undefined {
  const [, name] = /^(?:https?:\/\/(?:huggingface\.co|hf\.co)\/(?:datasets\/)?)?([\w-][\w.-]*\/[\w-][\w.-]*?)(?:\/tree\/main)?\/?$/.exec(uri) ?? [];
  return name === undefined || /\.(csv|tsv|jsonl?|ndjson|parquet|gguf|safetensors|bin|gz|zst|bz2)$/.test(name) ? undefined : `${hubScheme}${name}`;
}

/** A bucket to read from. Its errors name the bucket when that is what is missing. */
export const openBucket = (bucket: string, { s3 }: SourceSettings): ArtifactStore => openStore(`s3://${bucket}`, { s3 });

/** Size and tag of an object. @throws SourceError when there is none, StoreError `no_bucket` or `denied` */
export async function statObject(bucket: ArtifactStore, key: string): Promise<{ bytes: number; etag: string }> {
  await bucket.list(`${key}/`); // tells a missing bucket from a missing object, which HEAD does not
  const found = await bucket.stat(key);
  if (!found) throw new SourceError(`expected an object at ${bucket.root}/${key}, got none`);
  return found;
}

/** Whether an error says that the user's input names something that cannot be had; all others are the surroundings' fault. */
export const isBadSource = (error: unknown): error is SourceError | StoreError =>
  error instanceof SourceError || (error instanceof StoreError && ['bad_uri', 'missing', 'no_bucket', 'denied'].includes(error.code));

/** Runs work in which only what the user named at `path` can be bad. @throws InvalidInputError for what `isBadSource` says so of */
export async function asInput<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw isBadSource(error) ? new InvalidInputError([{ path, message: error.message }]) : error;
  }
}
