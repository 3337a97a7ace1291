import { basename, join } from 'node:path';
import { z } from 'zod';
import { evaluationPromptSchema, mergeInputSchema, mergeOutputSchema, type GgufFile } from '../contracts/stages.js';
import { findLlamaCpp } from '../infra/tools/llama-cpp.mjs';
import { getDirectory, mediaTypeOf, putDirectory } from './artifact-directory.js';
import { defineStage } from './stage.js';

/**
 * Adds the adapter to the base's weights, in the way that measures better: a Hugging Face directory that needs no adapter
 * library, and GGUF files if they are asked for.
 */
export const mergeStage = defineStage({
  name: 'merge',
  version: 2,
  input: mergeInputSchema,
  output: mergeOutputSchema,
  run: async ({ model, base, adapter, test, prompts, merge, export: exported }, { store, models, runTrainer, log, progress, signal, workDirectory, cacheDirectory }) => {
    const modelDirectory = await models.open(model);
    const adapterDirectory = join(workDirectory, 'adapter');
    await getDirectory(store, adapter, adapterDirectory, signal);
    const testTokens = join(workDirectory, 'test.safetensors');
    await store.getFile(test, testTokens, { signal });
    const result = await runTrainer(
      {
        kind: 'merge', model, modelDirectory, base, adapterDirectory, testTokens, merge, export: exported,
        llamaCpp: exported.gguf.length > 0 ? await findLlamaCpp(cacheDirectory) : undefined,
        prompts: z.array(evaluationPromptSchema).parse(JSON.parse((await store.getBytes(prompts)).toString('utf8'))),
        outputDirectory: join(workDirectory, 'output'),
      },
      {
        signal,
        log,
        onEvent: (event) => {
          if (event.event === 'progress') progress(event.phase, event.done, event.total);
        },
      },
    );
    progress('storing the merged model', 0, 1 + result.gguf.length);
    const merged = await putDirectory(store, result.directory, signal);
    const gguf: GgufFile[] = [];
    for (const { path, type, check } of result.gguf) {
      progress('storing the merged model', 1 + gguf.length, 1 + result.gguf.length);
      gguf.push({ type, check, file: { name: basename(path), ...(await store.putFile(path, mediaTypeOf(path), { signal })) } });
    }
    return { merged, kept: result.kept, measured: result.measured, ...(gguf.length > 0 && { gguf }), ...(result.notes.length > 0 && { notes: result.notes }) };
  },
});
