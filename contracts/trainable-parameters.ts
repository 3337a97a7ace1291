/**
 * "trainable params: 2,662,400 || all params: … || trainable%: …", as PEFT's `print_trainable_parameters` words it.
 * @param total parameters of base and adapter together
 */
export function describeTrainable(trainable: number, total: number): string {
  const share = ((100 * trainable) / total).toFixed(4);
  return `trainable params: ${trainable.toLocaleString('en-US')} || all params: ${total.toLocaleString('en-US')} || trainable%: ${share}`;
}
