// Addresses of views.

export const policyLink = (policy) => `#/policies/${encodeURIComponent(policy)}`;
export const variantLink = (policy, variant) => `${policyLink(policy)}/variants/${encodeURIComponent(variant)}`;

function withVariants(address, variants) {
  const names = variants.filter(Boolean);
  return names.length ? `${address}?${new URLSearchParams({ variants: names.join(",") })}` : address;
}

export const tryLink = (policy, ...variants) => withVariants(`${policyLink(policy)}/try`, variants);
export const playLink = (policy, ...variants) => withVariants(`${policyLink(policy)}/play`, variants);
