/** What `temper ask` hands to the process that answers, and what comes back. */
import { z } from 'zod';
import { baseSchema } from './fine-tune-config.js';

export const askJobSchema = z.strictObject({
  /** As in a configuration: model.uri. */
  model: z.string().min(1),
  base: baseSchema,
  /** PEFT directories, as in a configuration: lora.from. The base alone answers too. */
  adapters: z.array(z.string().min(1)),
  prompts: z.array(z.string().min(1)).min(1),
  /** Prompts are the user's turn of the model's chat template, not the text itself. */
  chat: z.boolean(),
  maxNewTokens: z.int().positive(),
  /** An answer ends before this text, beside EOS. */
  stop: z.string().min(1).optional(),
  backend: z.enum(['cuda', 'tensorflow', 'wasm', 'cpu']).optional(),
});
export type AskJob = z.infer<typeof askJobSchema>;

export const askedAnswerSchema = z.strictObject({
  prompt: z.string(),
  /** null: the base alone. */
  adapter: z.string().nullable(),
  text: z.string(),
  tokens: z.int().nonnegative(),
  /** Ended by EOS or the stop text, not by the limit. */
  stopped: z.boolean(),
});
export type AskedAnswer = z.infer<typeof askedAnswerSchema>;

export const askResultSchema = z.union([
  z.strictObject({ backend: z.string(), answers: z.array(askedAnswerSchema) }),
  z.strictObject({ problems: z.array(z.strictObject({ path: z.string(), message: z.string() })) }),
]);
export type AskResult = z.infer<typeof askResultSchema>;
