"""Accounts and groups that Debian's packages make: no user of a request may bear such a name.

From base-passwd's lists, the sysusers.d files of systemd and of other packages, and what the maintainer scripts of
the packages that depend on adduser (Debian 12 and 13) add, as far as a user could bear it: names that begin with `_`
or a capital cannot be a user's. A list is never whole, so a node refuses by itself a user whose name a package has
taken (`identity` in vclust_py/image/guest/init).
"""

PREFIXES = ("systemd-", "debian-", "gnome-", "prometheus-", "nm-", "x2go")
"""Whatever begins so belongs to a package."""

_NAMES = """
# base-passwd
root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats nobody nogroup adm tty
disk kmem dialout fax voice cdrom floppy tape sudo audio dip operator src shadow utmp video sasl plugdev staff
users
# systemd, udev, login, time, keys
wheel admin input kvm render sgx clock lock netdev bluetooth crontab ssh sshd messagebus polkitd uuidd tss rtkit
pulse pulse-access pipewire avahi avahi-autoipd colord geoclue usbmux fwupd-refresh cockpit-ws cockpit-wsinstance
scanner saned lpadmin cups-pk-helper cups-browsed mlocate plocate fuse tcpdump wireshark dnsmasq dhcpcd dhcpd
isc-dhcp rdnssd radvd iodine miredo ntp ntpd ntpsec chrony openntpd ssl-cert nordugrid haveged rngd
clevis tang swtpm opencryptoki usbauth usbauth-notifier i2c gpio spi rdma
# desktops and sound
gdm sddm lightdm greeter greetd lxdm slim xpra xrdp weston speech-dispatcher mpd mopidy mpdscribble icecast
icecast2 liquidsoap shairport-sync snapclient snapserver timidity festival jamulus motion zoneminder minidlna
plex jellyfin emby kodi vdr tvoe hitch veyon x2gouser x2goprint flatpak gamemode nvpd nvidia-persistenced
hplip brlapi gpm vlock console-log
# mail
postfix postdrop exim exim4 sendmail smmta smmsp opensmtpd opensmtpq courier vmail dovecot dovenull cyrus citadel
spamd spamassassin spamass-milter debian-spamd amavis clamav clamsmtp mimedefang defang mailman mailman3
majordomo sympa schleuder rspamd opendkim opendmarc dkimpy-milter dkim-milter greylist postgrey postsrsd
postfwd policyd-spf policyd-rate-limit policyd-weight postfix-gld postfix-mta-sts fetchmail fdm ifmail binkd
popa3d qmaild qmaill qmailp qmailq qmailr qmails alias qpsmtpd milter-greylist mtpolicyd spampd sqlgrey
sa-milt nullmail nullmailer msmtp davmail solid-pop3d
# names and directories
bind named unbound knot knot-resolver nsd pdns pdns-recursor dnsdist dnsproxy rbldnsd gdnsd yadifa bird frr frrvty
quagga quaggavty exabgp stayrtr routinator rpki-client octorpki dnscrypt dnscrypt-proxy curvedns stubby
opendnssec softhsm ldap openldap slapd dirsrv nslcd sssd sss krb5 kdc kadmin freeipa ipaapi ipa kerberos
radius freerad freeradius tac_plus radsecproxy statd rpc rpcuser nfsnobody gluster glusterfs ceph cephadm moosefs
mfs lizardfs beegfs xrootd xrd orangefs gfarm gfsd gfmd lustre openafs davfs2 samba sambashare winbindd_priv
netatalk ftp proftpd vsftpd pure-ftpd tftp nbd drbd sanlock corosync pacemaker hacluster haclient coroqnetd
ganeti heartbeat
# web, proxies, chat
http httpd apache apache2 nginx lighttpd caddy h2o hiawatha tomcat tomcat8 tomcat9 tomcat10 tomcat11 jetty jetty9
glassfish wildfly jboss squid varnish vcache varnishlog haproxy tinyproxy privoxy trafficserver
ziproxy e2guardian dansguardian approx apt-cacher-ng apt-cacher sslh stunnel stunnel4 tor i2psvc i2pd ircd irker
ircd-hybrid inspircd ngircd unrealircd znc biboumi bitlbee prosody ejabberd jabber matrix-synapse synapse
mattermost mumble-server mumble coturn turnserver kamailio opensips asterisk freeswitch rtpengine rtpproxy
sems jitsi jicofo jvb nextcloud owncloud gitea forgejo gitlab gitlab-ci gitlab-runner gitlab-www gitlab-psql
gitlab-redis gitlab-prometheus gitolite gitolite3 gitdaemon gitlog git gerrit jenkins buildbot redmine trac
svn cvs cvsd viewvc mediawiki wordpress drupal moodle etherpad gopher shibd shellinabox webdis didiwiki
loggerhead sogo roundcube horde radicale yaws cherokee mongrel2 molly-brown gophernicus
# data bases, queues, search
mysql mariadb postgres postgresql pgbouncer pgpool barman powa bucardo redis valkey keydb memcache memcached
mongodb mongod couchdb couchbase cassandra scylla influxdb telegraf chronograf kapacitor clickhouse
clickhouse-server tarantool firebird firebird3 neo4j arangodb rethinkdb etcd consul nomad vault zookeeper kafka
rabbitmq activemq mosquitto beanstalkd gearman nats nsqd zeromq pulsar solr elasticsearch opensearch logstash
kibana sphinxsearch manticore groonga zemberek taskd questdb timescaledb cockroach tidb minio
# monitoring, logs, printing, backup
prometheus grafana alertmanager loki tempo mimir promtail victoria-metrics ganglia gmetad munin nagios nrpe nsca
icinga icinga2 nagiosagent nagiocmd nagvis zabbix zabbixsrv zabbix-agent zabbix-server zabbix-java xymon hobbit
smokeping collectd carbon graphite statsd snmp snmptt snmpd netdata monit mon mrtg cacti rancid oxidized netflow
nfdump ulog ulogd syslog syslog-ng rsyslog logcheck logwatch fluentd fluentbit td-agent graylog tenshi sagan
snort suricata ossec ossecm ossecr wazuh zeek fail2ban sshguard arpwatch arpalert tripwire aide
cowrie inetsim scanlogd prads prelude apcupsd nut powerman bacula bareos burp backuppc amanda duplicati
urbackup borg restic boxbackup cups lpd hylafax sane faxmaster gammu smsd smstools
# clusters, clouds, virtual machines, containers
vclust munge slurm slurmd slurmctld slurmdbd slurmrestd torque pbs pbsdata pbspro openpbs sge sgeadmin gridengine
condor htcondor oar oarexec boinc boincadm ganglia-monitor warewulf xcat hadoop
hdfs yarn mapred hbase hive spark flink oozie impala hue ambari glance nova cinder neutron keystone swift heat
horizon ceilometer aodh gnocchi ironic ironic-inspector barbican designate magnum manila mistral murano octavia
panko placement sahara senlin trove vitrage watcher zaqar masakari cloudkitty freezer rally tempest openstack
qemu libvirt libvirt-qemu libvirt-dnsmasq libvirt-dbus libvirtdbus xen docker containerd
podman lxd lxc lxc-dnsmasq incus incus-admin kube kubernetes kubelet rancher crio openvswitch ovn vde2-net uml-net
vboxusers vboxadd vmware gns3 ubridge dump1090 cloud-init vagrant waagent puppet puppetdb chef salt
ansible cfengine foreman foreman-proxy katello pulp candlepin mcollective epoptes fai tftpd munin-async
vnc novnc guacd guacamole rstudio rstudio-server shiny jupyter jupyterhub globus myproxy voms dcache unicore
# the archive's own machinery, version control, and what is left
sbuild buildd reprepro aptly aptly-api apt-mirror debarchiver debci piuparts piupartsm piupartss obsrun obsrv
obsservicerun obsworker openqa lava lavaserver kgb kgb-bot wanna-build dpkg-www mini-dinstall pbuilder snapd snap
dcmtk orthanc gnumed ledgersmb tryton odoo openerp dolibarr canna freewnn wnn yacy nncp rsync rsyncd
unison syncthing strelaysrv stdiscosrv transmission deluge deluged aria2 amule mldonkey rtorrent
minetest minetest-server minecraft armagetronad openarena ufoai xpilot crossfire pokerth tircd dict dictd
gpsd kismet direwolf svxlink remotetrx quasselcore quassel gkrellmd distcc distccd icecc ccache beanshell ident
identd oidentd nobodyident telnetd telnetd-ssl bosixnet cereal userv gnump3d openvpn nm-openvpn nm-openconnect
strongswan ipsec ocserv wireguard tinc vpnc sstpc yggdrasil tox-bootstrapd freedombox plinth node-red homeassistant
home-assistant zigbee2mqtt openhab domoticz fhem knxd kannel jabberd vnstat uptimed sslwrap
webmin usermin ajenti hurd ntop ntopng guest-session oprofile stapusr stapdev stapsys tlog fapolicyd dhcpy6d
scponly rssh tango zurl pushpin pollen planetfilter poolcounter yubiserver
"""

SYSTEM_NAMES = frozenset(
    word for line in _NAMES.splitlines() if not line.startswith("#") for word in line.split()
)
