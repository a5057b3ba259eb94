# `granary serve` as a service.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (import ./types.nix { inherit lib; }) plainPath isSecret;
  cfg = config.services.granary;
  format = pkgs.formats.toml { };

  usualDir = "/var/lib/granary";
  isIpv6 = lib.hasInfix ":" cfg.listenAddress;
  address = if isIpv6 then "[${cfg.listenAddress}]" else cfg.listenAddress;
  binds = lib.optional (cfg.port < 1024) "CAP_NET_BIND_SERVICE";

  # systemd hands them over as files that only the service can read.
  secretNames = lib.imap0 (i: _file: "hs256-${toString i}") cfg.hs256SecretFiles;
  credentials = lib.zipListsWith (name: file: "${name}:${file}") secretNames cfg.hs256SecretFiles;

  arguments = [
    "--listen"
    "${address}:${toString cfg.port}"
    "--data"
    cfg.dataDir
    "--config"
    "${format.generate "granary.toml" cfg.settings}"
  ]
  ++ lib.optionals (cfg.maxNarSize != null) [
    "--max-nar-size"
    cfg.maxNarSize
  ];
in
{
  imports = [ ./package.nix ];

  options.services.granary = {
    enable = lib.mkEnableOption "the Granary server";

    listenAddress = lib.mkOption {
      type = lib.types.strMatching "[0-9.]+|[0-9a-fA-F:.]+";
      default = "127.0.0.1";
      example = "::";
      description = ''
        The IP address to listen on. Granary speaks plain HTTP: towards others, put a server in
        front of it that speaks TLS.
      '';
    };

    port = lib.mkOption {
      type = lib.types.port;
      default = 8080;
      description = "The port to listen on.";
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether to open the port in the firewall.";
    };

    dataDir = lib.mkOption {
      type = plainPath;
      default = usualDir;
      description = ''
        The folder that holds everything. The root token is in the file `root-token` in it, the
        public keys of the first cache in `public-key`.
      '';
    };

    maxNarSize = lib.mkOption {
      type = lib.types.nullOr (lib.types.strMatching "[0-9]+([KMGT]iB)?");
      default = null;
      example = "16GiB";
      description = "The longest NAR to accept, uncompressed; 64GiB if null.";
    };

    settings = lib.mkOption {
      type = format.type;
      default = { };
      example = lib.literalExpression ''
        {
          oidc = [
            {
              issuer = "https://token.actions.githubusercontent.com";
              audience = "https://cache.example.org";
              grant = [
                {
                  claims.repository = "my-org/*";
                  caches."ci-*" = [ "pull" "push" ];
                }
              ];
            }
          ];
        }
      '';
      description = ''
        The configuration file: whose tokens to believe, see docs/tokens.md. Everybody can read
        it, so secrets go elsewhere: see `hs256SecretFiles`.
      '';
    };

    hs256SecretFiles = lib.mkOption {
      type = lib.types.listOf plainPath;
      default = [ ];
      example = [ "/run/secrets/attic-hs256" ];
      description = ''
        Files with secrets of tokens to believe, each as base64. root can read them, and nobody else
        needs to: systemd hands them to the service.
      '';
    };

    environmentFile = lib.mkOption {
      type = lib.types.nullOr plainPath;
      default = null;
      description = "A file with further environment variables, which systemd reads as root.";
    };
  };

  config = lib.mkIf cfg.enable {
    assertions = [
      {
        assertion = lib.all isSecret (cfg.hs256SecretFiles ++ lib.optional (cfg.environmentFile != null) cfg.environmentFile);
        message = "services.granary: a secret lies in the Nix store, where everybody can read it";
      }
    ];

    services.granary.settings = lib.mkIf (secretNames != [ ]) {
      tokens.hs256_secret_files = map (
        name: "/run/credentials/granary.service/${name}"
      ) secretNames;
    };

    # For `granary token create` and its like.
    environment.systemPackages = [ cfg.package ];
    networking.firewall.allowedTCPPorts = lib.optional cfg.openFirewall cfg.port;

    # Not DynamicUser: what is kept for years keeps its owner, and an administrator can become it:
    # sudo -u granary granary token create --data /var/lib/granary …
    users.users.granary = {
      isSystemUser = true;
      group = "granary";
      home = cfg.dataDir;
      description = "Granary";
    };
    users.groups.granary = { };

    systemd.tmpfiles.rules = lib.optional (
      cfg.dataDir != usualDir
    ) "d ${cfg.dataDir} 0700 granary granary -";

    systemd.services.granary = {
      description = "Granary, a storehouse for Nix store paths";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [ "network-online.target" ];
      unitConfig.RequiresMountsFor = cfg.dataDir;

      serviceConfig = {
        Type = "notify";
        ExecStart = "${cfg.package}/bin/granary serve ${utils.escapeSystemdExecArgs arguments}";
        User = "granary";
        Group = "granary";
        UMask = "0077";
        Restart = "on-failure";
        RestartSec = 2;
        # After a power failure it rebuilds its index first, which takes as long as there is data.
        TimeoutStartSec = "infinity";
        # It finishes the requests under way.
        TimeoutStopSec = 90;
        LimitNOFILE = 65536;
        LoadCredential = credentials;
        EnvironmentFile = lib.mkIf (cfg.environmentFile != null) cfg.environmentFile;

        StateDirectory = lib.mkIf (cfg.dataDir == usualDir) "granary";
        StateDirectoryMode = "0700";
        ReadWritePaths = lib.mkIf (cfg.dataDir != usualDir) [ cfg.dataDir ];

        AmbientCapabilities = binds;
        CapabilityBoundingSet = if binds == [ ] then "" else binds;
        DevicePolicy = "closed";
        KeyringMode = "private";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        # In a user namespace of its own a capability for the host's ports is worth nothing.
        PrivateUsers = binds == [ ];
        # Not ProcSubset=pid: it hides the kernel's boot id, by which the server knows that there was
        # a power failure and that its index is not to be believed.
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        RemoveIPC = true;
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallErrorNumber = "EPERM";
        SystemCallFilter = [
          "@system-service"
          "~@privileged"
          "~@resources"
        ];
      };
    };
  };
}
