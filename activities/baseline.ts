import { evaluateInputSchema, evaluateOutputSchema } from '../contracts/stages.js';
import { evaluateModel } from './evaluate-model.js';
import { defineStage } from './stage.js';

/** Measures the untouched base model on the test split and the prompts. */
export const baselineStage = defineStage({
  name: 'baseline',
  version: 1,
  input: evaluateInputSchema,
  output: evaluateOutputSchema,
  run: evaluateModel,
});
