import { z } from 'zod';
import { artifactRefSchema, namedArtifactSchema } from '../contracts/artifact-schema.js';
import type { ArtifactRef } from '../contracts/artifact.js';
import type { ArtifactStore } from '../store/artifact-store.js';
import { keyOfRef } from '../store/keys.js';

/** A stage result as it is stored, one JSON object `stages/<name>/<key>.json`. */
export interface StageResult<Output> {
  key: string;
  /** Seconds the stage took. */
  seconds: number;
  output: Output;
}

interface StageShape<Output> {
  name: string;
  version: number;
  output: z.ZodType<Output>;
}

const resultKey = (stage: { name: string }, key: string) => `stages/${stage.name}/${key}.json`;

/**
 * The stored result for a key, if there is one.
 * `complete` is false when the object doesn't fit the stage's schema or one of its artifacts is no longer in the store.
 */
export async function findStageResult<Output>(
  store: ArtifactStore,
  stage: StageShape<Output>,
  key: string,
): Promise<(StageResult<Output> & { complete: true; etag: string }) | { complete: false; etag: string } | undefined> {
  const found = await store.read(resultKey(stage, key));
  if (!found) return undefined;
  const result = parseResult(stage, found.bytes);
  const complete = result !== undefined && (await allPresent(store, artifactsIn(result.output)));
  return complete ? { ...result, complete, etag: found.etag } : { complete: false, etag: found.etag };
}

/**
 * Stores a result where there was none (`etag` null) or an incomplete one (its etag).
 * @returns what the store holds afterwards: the given result, or that of the attempt which was faster
 */
export async function saveStageResult<Output>(
  store: ArtifactStore,
  stage: StageShape<Output>,
  result: StageResult<Output>,
  etag: string | null,
): Promise<StageResult<Output>> {
  const path = resultKey(stage, result.key);
  const bytes = Buffer.from(JSON.stringify({ name: stage.name, version: stage.version, ...result }));
  const won = etag === null ? await store.create(path, bytes) : await store.replace(path, bytes, etag);
  if (won) return result;
  const winner = await findStageResult(store, stage, result.key);
  return winner?.complete ? winner : result;
}

function parseResult<Output>(stage: StageShape<Output>, bytes: Buffer): StageResult<Output> | undefined {
  const schema = z.object({ key: z.string(), seconds: z.number(), output: stage.output });
  try {
    return schema.parse(JSON.parse(bytes.toString('utf8'))) as StageResult<Output>;
  } catch {
    return undefined; // written by hand or by another version: run the stage again
  }
}

/** Every artifact reference inside a value. */
function artifactsIn(value: unknown): ArtifactRef[] {
  if (Array.isArray(value)) return value.flatMap(artifactsIn);
  if (typeof value !== 'object' || value === null) return [];
  const ref = namedArtifactSchema.or(artifactRefSchema).safeParse(value);
  return ref.success ? [ref.data] : Object.values(value).flatMap(artifactsIn);
}

/** Artifacts outside this store (a base model's files) count as present: their stage verifies them when it reads them. */
async function allPresent(store: ArtifactStore, refs: ArtifactRef[]): Promise<boolean> {
  const ours = refs.filter(({ uri }) => uri.startsWith(`${store.root}/`));
  const found = await Promise.all(ours.map((ref) => store.list(keyOfRef(store.root, ref))));
  return found.every((keys) => keys.length > 0);
}
