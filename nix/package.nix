# The granary command. SQLite, zstd and xz are compiled from the sources that their crates bring, so
# a C compiler is all that is needed besides Rust.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
}:
let
  workspace = (lib.importTOML ../Cargo.toml).workspace;
  # Cargo wants to see every member, the end-to-end tests too; nothing else is worth a rebuild.
  members = map (member: ../. + "/${member}") workspace.members;
in
rustPlatform.buildRustPackage {
  pname = "granary";
  inherit (workspace.package) version;

  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions (
      [
        ../Cargo.toml
        ../Cargo.lock
      ]
      ++ members
    );
  };
  cargoLock.lockFile = ../Cargo.lock;
  cargoBuildFlags = [
    "--package=granary"
    "--bin=granary"
  ];
  # The tests want /dev/fuse, a network, three versions of Nix and closures of real packages.
  doCheck = false;

  nativeBuildInputs = [ installShellFiles ];

  postInstall = ''
    # What mount(8) runs for the type granary.
    ln -s granary $out/bin/mount.granary
  ''
  + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    $out/bin/granary man pages
    installManPage pages/*
    installShellCompletion --cmd granary \
      --bash <($out/bin/granary completions bash) \
      --fish <($out/bin/granary completions fish) \
      --zsh <($out/bin/granary completions zsh)
  '';

  meta = {
    description = "Storehouse for Nix store paths: binary cache, lazy mount, daemon socket";
    license = [
      lib.licenses.mit
      lib.licenses.asl20
    ];
    mainProgram = "granary";
    platforms = lib.platforms.linux;
  };
}
