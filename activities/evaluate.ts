import { evaluateInputSchema, evaluateOutputSchema } from '../contracts/stages.js';
import { evaluateModel } from './evaluate-model.js';
import { defineStage } from './stage.js';

/** Measures base and adapter together, on what the baseline was measured on. */
export const evaluateStage = defineStage({
  name: 'evaluate',
  version: 1,
  input: evaluateInputSchema,
  output: evaluateOutputSchema,
  run: evaluateModel,
});
