# A key pair for the virtual machines of these tests, which have to know the public key before the
# server runs. Nobody else trusts it.
{
  public = "granary-nixos-test-1:TlD8EB9LuRLEBJky3xFma2skzwSLA1EjiEUFBZzMDtU=";
  secret = "granary-nixos-test-1:o4bFhBWuobiN6O/s6l8yY7v19+iteYTUmLI8b6cqrt5OUPwQH0u5EsQEmTLfEWZrayTPBIsDUSOIRQUFnMwO1Q==";
}
